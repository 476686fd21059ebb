package checker

import (
	"fmt"
	"strings"
	"testing"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// tells is a watch's operation behind a position, by client 7, that tells changes in the
// form "key=value@version", batches ended by a position in brackets: "a=1@5 [p1]".
func tells(invoke, ret int, after, what string, mods ...mod) history.Op {
	op := did(invoke, ret, history.Watch, "w", after, append([]mod{func(op *history.Op) { op.Client = 7 }}, mods...)...)
	for _, f := range strings.Fields(what) {
		if p, ok := strings.CutPrefix(f, "["); ok {
			op.Elements = append(op.Elements, history.Element{Value: strings.TrimSuffix(p, "]")})
			continue
		}
		var e history.Element
		var v uint64
		key, rest, _ := strings.Cut(f, "=")
		value, version, _ := strings.Cut(rest, "@")
		if _, err := fmt.Sscan(version, &v); err != nil {
			panic(err)
		}
		e.Key, e.Value, e.Version = key, value, fulcrum.Version{Time: v, Actor: 1}
		op.Elements = append(op.Elements, e)
	}
	return op
}

// wrote is an acknowledged write of value to wa with a version.
func wrote(invoke, ret int, value string, v uint64, mods ...mod) history.Op {
	return did(invoke, ret, history.Write, "wa", value, append([]mod{vsn(v)}, mods...)...)
}

func paired(invoke, ret int, key, value string, mods ...mod) history.Op {
	return did(invoke, ret, history.Pair, key, value, mods...)
}

func compactedAt(op *history.Op) { op.Outcome, op.Code = history.Fail, fulcrum.CodeCompacted }

func TestWatches(t *testing.T) {
	begin, one, two := tells(0, 1, "", "[p0]"), wrote(2, 3, "1", 5), wrote(4, 5, "2", 6)
	expires := did(2, 3, history.Write, "wx", "7", vsn(6), lives(1000))
	judgeRows(t, Watches(), []row{
		{"all told, over two operations", linearRaft, []history.Op{begin, one, tells(2, 4, "p0", "wa=1@5 [p1]"), two, tells(6, 7, "p1", "wa=2@6 [p2]"), tells(8, 9, "p2", "[p2]", final)},
			Valid, nil, map[string]float64{"watches": 1, "writes_judged": 2, "events": 2}},
		{"a removal", linearRaft, []history.Op{begin, one, did(4, 5, history.Delete, "wa", "", vsn(6)), tells(6, 7, "p0", "wa=1@5 wa=@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Valid, nil, nil},
		{"one of two removals with unknown outcomes, told before the second", linearRaft, []history.Op{begin, one, did(3, 4, history.Delete, "wa", "", unsure), tells(5, 6, "p0", "wa=1@5 wa=@6 [p1]"),
			did(7, 8, history.Delete, "wa", "", unsure), tells(9, 10, "p1", "[p1]", final)}, Valid, nil, nil},
		{"told at the end only", linearRaft, []history.Op{begin, one, tells(8, 9, "p0", "wa=1@5 [p1]", final)}, Valid, nil, nil},
		{"unknown, and told", linearRaft, []history.Op{begin, one, wrote(4, 5, "2", 0, unsure), tells(6, 7, "p0", "wa=1@5 wa=2@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Valid, nil, nil},
		{"unknown, and never told", linearRaft, []history.Op{begin, one, wrote(4, 5, "2", 0, unsure), tells(6, 7, "p0", "wa=1@5 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Valid, nil, nil},
		{"it began with the watch: either way", linearRaft, []history.Op{wrote(0, 3, "0", 4), begin, one, tells(6, 7, "p0", "wa=1@5 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Valid, nil, nil},
		{"a gap before something newer", linearRaft, []history.Op{begin, one, two, tells(6, 7, "p0", "wa=2@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"gap"}, nil},
		{"a position that was not true", linearRaft, []history.Op{begin, one, tells(3, 4, "p0", "[p1]"), two, tells(6, 7, "p1", "wa=2@6 [p2]"), tells(8, 9, "p2", "[p2]", final)}, Invalid, []string{"gap"}, nil},
		{"missing at the end on every node", linearRaft, []history.Op{begin, one, tells(6, 7, "p0", "[p1]"), tells(8, 9, "p1", "[p2]", final), tells(8, 9, "p1", "[p2]", final, on("n2"))}, Invalid, []string{"gap"}, nil},
		{"missing at the end on the one that was asked", linearRaft, []history.Op{begin, one, tells(6, 7, "p0", "[p1]"), tells(8, 9, "p1", "[p2]", final)}, Unknown, nil, nil},
		{"missing at the end on one of two", linearRaft, []history.Op{begin, one, tells(6, 7, "p0", "[p1]"), tells(8, 9, "p1", "[p2]", final), tells(8, 9, "p1", "wa=1@5 [p2]", final, on("n2"))}, Valid, nil, nil},
		{"told twice", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5 [p1]"), tells(6, 7, "p1", "wa=1@5 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"repeated"}, nil},
		{"told again at the end", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5 [p1]"), tells(8, 9, "p1", "wa=1@5 [p1]", final)}, Invalid, []string{"repeated"}, nil},
		{"newer first", linearRaft, []history.Op{begin, one, two, tells(6, 7, "p0", "wa=2@6 wa=1@5 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"out-of-order"}, nil},
		{"a pair in one batch", linearRaft, []history.Op{begin, paired(2, 3, "wp", "1"), tells(4, 5, "p0", "wp/1=1@5 wp/2=1@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Valid, nil, nil},
		{"a pair in two batches", linearRaft, []history.Op{begin, paired(2, 3, "wp", "1"), tells(4, 5, "p0", "wp/1=1@5 [p1] wp/2=1@6 [p2]"), tells(8, 9, "p2", "[p2]", final)}, Invalid, []string{"split-batch"}, nil},
		{"half a pair", linearRaft, []history.Op{begin, paired(2, 3, "wp", "1"), tells(4, 5, "p0", "wp/1=1@5 [p1]"), tells(8, 9, "p1", "[p1]", final), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"split-batch", "gap"}, nil},
		{"what was there before", linearRaft, []history.Op{wrote(0, 1, "0", 4), tells(2, 3, "", "wa=0@4 [p0]"), wrote(4, 5, "1", 5), tells(8, 9, "p0", "wa=1@5 [p1]", final)}, Invalid, []string{"early"}, nil},
		{"nobody wrote it", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5 wa=9@9 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"phantom-event"}, nil},
		{"nobody removed it", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5 wa=@9 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"phantom-event"}, nil},
		{"it had failed", linearRaft, []history.Op{begin, one, wrote(2, 3, "2", 0, failed), tells(4, 5, "p0", "wa=1@5 wa=2@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"phantom-event"}, nil},
		{"before it was written", linearRaft, []history.Op{begin, tells(1, 2, "p0", "wa=1@5 [p1]"), wrote(3, 4, "1", 5), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"phantom-event"}, nil},
		{"another version", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@7 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"wrong-event", "gap"}, nil},
		{"another key", linearRaft, []history.Op{begin, one, wrote(4, 5, "2", 6), tells(6, 7, "p0", "wa=1@5 wb=2@6 [p1]"), tells(8, 9, "p1", "[p1]", final)}, Invalid, []string{"wrong-event"}, nil},
		{"told that it is gone, it begins anew", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "", compactedAt), two, tells(6, 7, "", "[p5]"), wrote(8, 9, "3", 7), tells(10, 11, "p5", "wa=3@7 [p6]"), tells(12, 13, "p6", "[p6]", final)},
			Valid, nil, map[string]float64{"watches": 2, "told_that_history_is_gone": 1, "writes_judged": 1}},
		{"skipped instead of told", linearRaft, []history.Op{begin, one, two, wrote(6, 7, "3", 7), tells(8, 9, "p0", "wa=3@7 [p6]"), tells(12, 13, "p6", "[p6]", final)}, Invalid, []string{"gap"}, nil},
		{"goes on behind nothing it was told", linearRaft, []history.Op{begin, one, tells(4, 5, "p9", "wa=1@5 [p1]"), tells(8, 9, "p0", "wa=1@5 [p1]", final)}, Unknown, nil, nil},
		{"an open batch", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5"), tells(8, 9, "wa=1@5", "[p1]", final)}, Unknown, nil, nil},
		{"an expiry", linearRaft, []history.Op{begin, one, expires, tells(2000, 2001, "p0", "wa=1@5 wx=7@6 wx=@9 [p1]"), tells(8000, 9000, "p1", "[p1]", final)}, Valid, nil, map[string]float64{"expiries": 1}},
		{"an expiry at the end only", linearRaft, []history.Op{begin, one, expires, tells(6, 7, "p0", "wa=1@5 wx=7@6 [p1]"), tells(8000, 9000, "p1", "wx=@9 [p2]", final)}, Valid, nil, nil},
		{"an expiry that is perhaps only late", linearRaft, []history.Op{begin, one, expires, tells(6, 7, "p0", "wa=1@5 wx=7@6 [p1]"), tells(3900, 3999, "p1", "[p1]", final), tells(3900, 3999, "p1", "[p1]", final, on("n2"))}, Valid, nil, nil},
		{"an expiry that is never told", linearRaft, []history.Op{begin, one, expires, tells(6, 7, "p0", "wa=1@5 wx=7@6 [p1]"), tells(8000, 9000, "p1", "[p1]", final), tells(8000, 9000, "p1", "[p1]", final, on("n2"))}, Invalid, []string{"gap"}, nil},
		{"an expiry told twice", linearRaft, []history.Op{begin, one, expires, tells(2000, 2001, "p0", "wa=1@5 wx=7@6 wx=@9 wx=@10 [p1]"), tells(8000, 9000, "p1", "[p1]", final)}, Invalid, []string{"repeated"}, nil},
		{"an expiry told again by another node", linearRaft, []history.Op{begin, one, expires, tells(2000, 2001, "p0", "wa=1@5 wx=7@6 wx=@9 [p1]"), tells(8000, 9000, "p1", "wx=@11 [p2]", final)}, Invalid, []string{"repeated"}, nil},
		{"an expiry before its time", linearRaft, []history.Op{begin, one, expires, tells(900, 1001, "p0", "wa=1@5 wx=7@6 wx=@9 [p1]"), tells(8000, 9000, "p1", "[p1]", final)}, Invalid, []string{"early-expiry"}, nil},
		{"an expiry after a delete", linearRaft, []history.Op{begin, one, expires, did(4, 5, history.Delete, "wx", "", vsn(7)), tells(6, 7, "p0", "wa=1@5 wx=7@6 wx=@7 [p1]"), tells(8000, 9000, "p1", "[p1]", final), tells(8000, 9000, "p1", "[p1]", final)}, Valid, nil, nil},
		{"an expiry of before the watch, removed behind its beginning", linearRaft, []history.Op{expires, tells(5000, 5001, "", "[p0]"), wrote(5002, 5003, "1", 8), tells(5010, 5011, "p0", "wx=@7 wa=1@8 [p1]"), tells(8000, 9000, "p1", "[p1]", final)}, Valid, nil, nil},
		{"not followed to the end", linearRaft, []history.Op{begin, one, tells(4, 5, "p0", "wa=1@5 [p1]")}, Unknown, nil, nil},
		{"nothing written", linearRaft, []history.Op{begin, tells(8, 9, "p0", "[p0]", final)}, Unknown, nil, nil},
	})
}
