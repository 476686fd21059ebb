package fulcrum_test

import (
	"errors"
	"testing"

	"fulcrum"
)

// What has expired is as if nothing stood there, although it is there still: until
// somebody removes it, it is what the next write finds.
func TestWhatHasExpiredIsAbsent(t *testing.T) {
	const now = 5000
	was, stamp := fulcrum.Version{Time: 1, Actor: 1}, fulcrum.Version{Time: 2, Actor: 1}
	expired := fulcrum.Entry{Key: []byte("k"), Value: []byte("7"), Version: was, ExpireAt: now}
	live := expired
	live.ExpireAt = now + 1
	v := []byte("9")
	type left struct {
		applied bool
		value   string
		expires int64
		old     string
	}
	tests := []struct {
		name          string
		w             fulcrum.Write
		expired, live left
	}{
		{"put", fulcrum.Write{Op: fulcrum.OpPut, Value: v}, left{true, "9", 0, ""}, left{true, "9", 0, "7"}},
		{"put that keeps the expiry", fulcrum.Write{Op: fulcrum.OpPut, Value: v, KeepTTL: true}, left{true, "9", 0, ""}, left{true, "9", now + 1, "7"}},
		{"put for a while", fulcrum.Write{Op: fulcrum.OpPut, Value: v, TTL: 10}, left{true, "9", now + 10, ""}, left{true, "9", now + 10, "7"}},
		{"put if absent", fulcrum.Write{Op: fulcrum.OpPut, Value: v, If: fulcrum.IfAbsent}, left{true, "9", 0, ""}, left{false, "7", now + 1, "7"}},
		{"put if present", fulcrum.Write{Op: fulcrum.OpPut, Value: v, If: fulcrum.IfPresent}, left{false, "7", now, ""}, left{true, "9", 0, "7"}},
		{"put at its version", fulcrum.Write{Op: fulcrum.OpPut, Value: v, If: fulcrum.IfVersion, At: was}, left{false, "7", now, ""}, left{true, "9", 0, "7"}},
		{"put over its value", fulcrum.Write{Op: fulcrum.OpPut, Value: v, If: fulcrum.IfValue, Expect: []byte("7")}, left{false, "7", now, ""}, left{true, "9", 0, "7"}},
		{"add", fulcrum.Write{Op: fulcrum.OpAdd, Value: v}, left{true, "9", 0, ""}, left{true, "16", now + 1, "7"}},
		{"add a float", fulcrum.Write{Op: fulcrum.OpAddFloat, Value: []byte("0.5")}, left{true, "0.5", 0, ""}, left{true, "7.5", now + 1, "7"}},
		{"append", fulcrum.Write{Op: fulcrum.OpAppend, Value: v}, left{true, "9", 0, ""}, left{true, "79", now + 1, "7"}},
		{"set a range", fulcrum.Write{Op: fulcrum.OpSetRange, Value: v, Offset: 1}, left{true, "\x009", 0, ""}, left{true, "79", now + 1, "7"}},
		{"expire later", fulcrum.Write{Op: fulcrum.OpExpire, TTL: 100}, left{false, "7", now, ""}, left{true, "7", now + 100, "7"}},
		{"never expire", fulcrum.Write{Op: fulcrum.OpExpire}, left{false, "7", now, ""}, left{true, "7", 0, "7"}},
		{"delete if present", fulcrum.Write{Op: fulcrum.OpDelete, If: fulcrum.IfPresent}, left{false, "7", now, ""}, left{true, "", 0, "7"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for _, on := range []struct {
				name string
				old  fulcrum.Entry
				want left
			}{{"expired", expired, tc.expired}, {"live", live, tc.live}} {
				tc.w.Key = on.old.Key
				res, err := fulcrum.Evaluate(tc.w, on.old, stamp, now, fulcrum.DefaultMaxValue)
				got := left{res.Applied, string(res.Entry.Value), res.Entry.ExpireAt, string(res.Old.Value)}
				if err != nil || got != on.want {
					t.Errorf("on a value that is %s: %+v, %v, want %+v", on.name, got, err, on.want)
				}
			}
		})
	}
}

// A condition asks for what is live: one that wants nothing there holds where a value has
// expired, and one that wants its version or value does not.
func TestAConditionSeesNothingExpired(t *testing.T) {
	const now = 5000
	was := fulcrum.Version{Time: 1, Actor: 1}
	e := fulcrum.Entry{Key: []byte("k"), Value: []byte("7"), Version: was, ExpireAt: now + 1}
	for _, tc := range []struct {
		name          string
		c             fulcrum.Compare
		live, expired bool
	}{
		{"nothing stands there", fulcrum.Compare{Op: fulcrum.Equal}, false, true},
		{"something stands there", fulcrum.Compare{Op: fulcrum.NotEqual}, true, false},
		{"it has the version", fulcrum.Compare{Op: fulcrum.Equal, Version: was}, true, false},
		{"it has changed", fulcrum.Compare{Op: fulcrum.NotEqual, Version: was}, false, true},
		{"it has the value", fulcrum.Compare{Op: fulcrum.Equal, Target: fulcrum.CompareValue, Value: []byte("7")}, true, false},
		{"it has not the value", fulcrum.Compare{Op: fulcrum.NotEqual, Target: fulcrum.CompareValue, Value: []byte("7")}, false, true},
		{"it is below a value", fulcrum.Compare{Op: fulcrum.Less, Target: fulcrum.CompareValue, Value: []byte("8")}, true, false},
	} {
		if live, expired := tc.c.Holds(e, now), tc.c.Holds(e, now+1); live != tc.live || expired != tc.expired {
			t.Errorf("%s: %v while the value is live, %v when it has expired, want %v and %v", tc.name, live, expired, tc.live, tc.expired)
		}
	}
}

// A late write was taken under the limit of another node, or of another day: it is not refused
// by the one that stands now, or it would be owed for ever.
func TestALateWriteIsTakenWhateverTheLimit(t *testing.T) {
	e := fulcrum.Entry{Key: []byte("k"), Value: []byte("123456"), Version: fulcrum.Version{Time: 1, Actor: 1}}
	if err := fulcrum.MergeOf(e).Check(5); err != nil {
		t.Errorf("a merge of 6 bytes where 5 are the limit: %v", err)
	}
	if res, err := fulcrum.Evaluate(fulcrum.MergeOf(e), fulcrum.Entry{}, fulcrum.Version{Time: 2, Actor: 1}, 0, 5); err != nil || !res.Applied {
		t.Errorf("%+v, %v", res, err)
	}
	put := fulcrum.Write{Op: fulcrum.OpPut, Key: e.Key, Value: e.Value}
	if err := put.Check(5); !errors.Is(err, fulcrum.ErrTooLarge) {
		t.Errorf("a put of 6 bytes where 5 are the limit: %v", err)
	}
}
