package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
)

// watchLine is what watch prints as JSON, one object a line. After, on the last change of
// a request and on signs of life (type progress), is what --after takes.
type watchLine struct {
	Type     string     `json:"type"`
	Keyspace string     `json:"keyspace"`
	Key      string     `json:"key,omitempty"`
	Value    *string    `json:"value,omitempty"`
	Encoding string     `json:"encoding,omitempty"` // base64, when key or value is not UTF-8: then both are
	Version  string     `json:"version,omitempty"`
	ExpireAt *time.Time `json:"expire_at,omitempty"`
	After    string     `json:"after,omitempty"`
}

func (a *app) watchCommand() *cobra.Command {
	var keyspace, node, after string
	var exact bool
	c := &cobra.Command{
		Use: "watch [PREFIX]", Short: "Tell changes to keys as they come, until Ctrl-C", Args: args(cobra.MaximumNArgs(1)),
		Long: `Tell changes to keys that begin with PREFIX, or to all, as they come, until Ctrl-C.

Changes of a key come in order, each once, with no gap, also when nodes die: the watch
goes on at another node by itself. Only mode raft has it. With -o json each line is an
object; its "after", where it is there, given to --after, goes on right behind it.

While no node can go on (with --node: while that one cannot), it says why on standard
error, tries again, and says when it is watching again: for as long as it takes, or, with
a --timeout that you give, for so long at a time, and then ends with exit code 3. A watch
that is under way has no limit.

Exit code 1 when what comes behind --after is no longer kept.`,
		Example: "  fulcrum watch -k cp user:\n  fulcrum watch -k cp --key balance -o json\n  fulcrum watch -k cp --node n1 --timeout 10s",
	}
	c.RunE = func(cmd *cobra.Command, in []string) error {
		w := client.Watch{After: after, Trouble: (&troubles{out: a.err}).tell}
		if cmd.Flags().Changed("timeout") { // its default is for commands that end
			w.Patience = a.timeout
		}
		switch {
		case exact && (len(in) == 0 || in[0] == ""):
			return usagef(cmd, "--key: which one?")
		case exact:
			w.Key = in[0]
		case len(in) == 1:
			w.Prefix = in[0]
		}
		ctx, cancel := a.deadline(cmd.Context())
		cl, err := a.connect(ctx)
		cancel()
		if err != nil {
			return err
		}
		defer cl.Close()
		return a.watch(cmd.Context(), cl, keyspace, w, on(node))
	}
	fl := c.Flags()
	fl.StringVarP(&keyspace, "keyspace", "k", "default", "keyspace")
	fl.StringVar(&node, "node", "", "the node to ask, and no other; default: any")
	fl.StringVar(&after, "after", "", "go on behind this: \"after\" of an earlier watch, or a version as a receipt shows it")
	fl.BoolVar(&exact, "key", false, "the argument is one key, not a prefix")
	return c
}

// troublesEvery is how often a watch says that it still cannot go on.
const troublesEvery = 10 * time.Second

// troubles says on standard error how a watch goes that is not under way.
type troubles struct {
	out  io.Writer
	told time.Time // the last trouble
	open bool      // nobody has said yet that it is over
}

// tell is client.Watch.Trouble. A trouble that is over at once, again and again, does not
// fill the screen: it is told as seldom as one that lasts.
func (t *troubles) tell(err error) {
	switch {
	case err == nil && t.open:
		t.open = false
		fmt.Fprintln(t.out, "fulcrum: watching again; nothing was missed")
	case err != nil && (t.told.IsZero() || time.Since(t.told) >= troublesEvery):
		t.told, t.open = time.Now(), true
		fmt.Fprintf(t.out, "fulcrum: cannot watch now, trying again: %v\n", err)
	}
}

// watch prints what is told until ctx ends.
func (a *app) watch(ctx context.Context, cl *client.Client, keyspace string, w client.Watch, opts []client.CallOption) error {
	for batch, err := range cl.Watch(ctx, keyspace, w, opts...) {
		if errors.Is(err, fulcrum.ErrCompacted) {
			e := *fulcrum.AsError(err)
			e.Hint = "start fulcrum watch without --after, then read the keys with fulcrum scan, then go on with what the watch tells"
			return &e
		}
		if err == nil {
			err = a.showBatch(keyspace, batch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showBatch(keyspace string, b client.Batch) error {
	if a.asJSON() && len(b.Changes) == 0 {
		return a.line(watchLine{Type: "progress", Keyspace: keyspace, After: b.Next})
	}
	for i, ch := range b.Changes {
		if !a.asJSON() {
			if err := showChange(a.out, ch); err != nil {
				return err
			}
			continue
		}
		l := watchLine{Type: ch.Kind, Keyspace: keyspace, Key: ch.Key, Version: ch.Version.String()}
		l.fill(ch)
		if i == len(b.Changes)-1 {
			l.After = b.Next
		}
		if err := a.line(l); err != nil {
			return err
		}
	}
	return nil
}

func (l *watchLine) fill(ch client.Change) {
	key, keyEncoding := printable([]byte(ch.Key))
	value, encoding := printable(ch.Value)
	if keyEncoding != "" || encoding != "" {
		k, v := encodeBase64([]byte(ch.Key)), encodeBase64(ch.Value)
		key, value, l.Encoding = &k, &v, "base64"
	}
	l.Key = *key
	if ch.Kind == client.Put {
		l.Value = value
	}
	if !ch.ExpireAt.IsZero() {
		l.ExpireAt = &ch.ExpireAt
	}
}

// line prints one object on one line.
func (a *app) line(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func showChange(out io.Writer, ch client.Change) error {
	text := fmt.Sprintf("%-6s  %s", ch.Kind, strconv.Quote(ch.Key))
	if ch.Kind == client.Put {
		value, _ := printable(ch.Value)
		text += "  " + strconv.Quote(*value)
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", text, ch.Version)
	return err
}
