package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

// keyFlags are the flags of every command on keys.
type keyFlags struct {
	keyspace, level, node, session string
	receipt                        bool
	named                          bool // there is a request id
}

func (f *keyFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.keyspace, "keyspace", "k", "default", "keyspace")
	fl.StringVar(&f.level, "level", "", "level of this request, such as linearizable, quorum or one (see fulcrum levels); default: the keyspace's")
	fl.StringVar(&f.node, "node", "", "the node to ask; default: whichever can answer best")
	fl.BoolVar(&f.receipt, "receipt", false, "also show what the reply says about itself")
	fl.StringVar(&f.session, "session", "", "session token from an earlier receipt: read what that session wrote and read")
}

// keyCommand makes a command on keys: do gets a client and the options that the
// flags give.
func (a *app) keyCommand(c *cobra.Command, do func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error) *cobra.Command {
	var f keyFlags
	f.add(c)
	c.RunE = func(cmd *cobra.Command, in []string) error {
		level, err := consistency.ParseLevel(f.level)
		if err != nil {
			return usage(cmd, err)
		}
		ctx, cancel := a.deadline(cmd.Context())
		defer cancel()
		cl, err := a.connect(ctx)
		if err != nil {
			return err
		}
		defer cl.Close()
		opts := append(on(f.node), client.Level(level))
		if f.node != "" {
			opts = append(opts, client.NoRetry())
		}
		if f.session != "" || f.receipt {
			opts = append(opts, client.In(client.NewSession(consistency.Token(f.session))))
		}
		err = do(ctx, cl, &f, opts, in)
		var u usageError
		if errors.As(err, &u) {
			return usage(cmd, u.err)
		}
		return err
	}
	return c
}

// writeCommand is keyCommand for what changes a key: the change may have an id.
func (a *app) writeCommand(c *cobra.Command, do func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error) *cobra.Command {
	var id string
	c = a.keyCommand(c, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		if f.named = c.Flags().Changed("request-id"); f.named {
			opts = append(opts, client.RequestID(id))
		}
		return do(ctx, cl, f, opts, in)
	})
	c.Flags().StringVar(&id, "request-id", "", "name this change, in 1 to 119 characters: sent again under the same id within 10 minutes, it takes effect once and gets the same answer (mode raft)")
	return c
}

// keyResult is what commands on one key print as JSON.
type keyResult struct {
	Keyspace    string               `json:"keyspace"`
	Key         string               `json:"key"`
	KeyEncoding string               `json:"key_encoding,omitempty"` // base64, when the key is not UTF-8
	Value       *string              `json:"value,omitempty"`
	Encoding    string               `json:"encoding,omitempty"` // base64, when the value is not UTF-8
	Version     string               `json:"version,omitempty"`
	ExpireAt    *time.Time           `json:"expire_at,omitempty"`
	Receipt     *consistency.Receipt `json:"receipt,omitempty"`
}

// resultOf is what is known of a key that was read.
func resultOf(keyspace string, item client.Item) keyResult {
	r := keyResult{Keyspace: keyspace, Version: item.Version.String()}
	r.name(item.Key)
	r.Value, r.Encoding = printable(item.Value)
	if !item.ExpireAt.IsZero() {
		r.ExpireAt = &item.ExpireAt
	}
	return r
}

// name says whose result it is: JSON has no bytes that are not UTF-8, and another key must
// not stand there instead.
func (r *keyResult) name(key string) {
	text, encoding := printable([]byte(key))
	r.Key, r.KeyEncoding = *text, encoding
}

// showKey prints a result: text alone for people, all of it as JSON.
func (a *app) showKey(f *keyFlags, r keyResult, rc consistency.Receipt, text func(w io.Writer)) error {
	r.Keyspace = f.keyspace
	if r.KeyEncoding == "" {
		r.name(r.Key)
	}
	if !rc.Version.IsZero() && r.Version == "" {
		r.Version = rc.Version.String()
	}
	if f.receipt {
		r.Receipt = &rc
	}
	if a.output == "json" || f.receipt && a.asJSON() {
		return a.show(r, nil)
	}
	text(a.out)
	if f.receipt {
		w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
		for _, field := range rc.Fields() {
			row(w, "  "+field.Name, field.Value)
		}
		return w.Flush()
	}
	return nil
}

func (a *app) getCommand() *cobra.Command {
	return a.keyCommand(&cobra.Command{
		Use: "get KEY", Short: "Read a key: prints its value", Args: args(cobra.ExactArgs(1)),
		Example: "  fulcrum get -k cp balance\n  fulcrum get -k ap likes --level one --node n1 --receipt",
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		item, err := cl.Get(ctx, f.keyspace, in[0], opts...)
		if err != nil {
			return a.absent(f, in[0], item.Receipt, err)
		}
		return a.showKey(f, resultOf(f.keyspace, item), item.Receipt, func(w io.Writer) {
			_, _ = w.Write(item.Value)
			if isTerminal(w) || !bytes.HasSuffix(item.Value, []byte("\n")) {
				fmt.Fprintln(w)
			}
		})
	})
}

// absent turns "no such key" into exit code 1, with the receipt if it was asked for.
func (a *app) absent(f *keyFlags, key string, rc consistency.Receipt, err error) error {
	if !errors.Is(err, fulcrum.ErrNotFound) || rc.Keyspace == "" {
		return err
	}
	if showErr := a.showKey(f, keyResult{Key: key}, rc, func(io.Writer) {}); showErr != nil {
		return showErr
	}
	return fulcrum.Errorf(fulcrum.CodeNotFound, "no key %q in keyspace %s", key, f.keyspace)
}

func printable(b []byte) (*string, string) {
	if utf8.Valid(b) {
		s := string(b)
		return &s, ""
	}
	s := encodeBase64(b)
	return &s, "base64"
}

func (a *app) putCommand() *cobra.Command {
	var ttl time.Duration
	var ttlGiven func() bool // --ttl 0s is not "for ever"
	var ifAbsent, ifPresent bool
	c := a.writeCommand(&cobra.Command{
		Use: "put KEY VALUE", Short: "Write a key ('-' reads the value from standard input)", Args: args(cobra.ExactArgs(2)),
		Example: "  fulcrum put -k cp balance 100 --receipt\n  fulcrum put -k ap likes 7 --level one --node n1\n  fulcrum put -k cp order paid --request-id 7f3a    # again after a lost answer: applied once",
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		value, err := a.value(in[1])
		if err != nil {
			return err
		}
		if ttlGiven() {
			if ttl <= 0 {
				return usageError{err: fmt.Errorf("--ttl %s: must be positive", ttl)}
			}
			opts = append(opts, client.TTL(ttl))
		}
		switch {
		case ifAbsent && ifPresent:
			return usageError{err: errors.New("--if-absent and --if-present exclude each other")}
		case ifAbsent:
			opts = append(opts, client.IfAbsent())
		case ifPresent:
			opts = append(opts, client.IfPresent())
		}
		rc, err := cl.Put(ctx, f.keyspace, in[0], value, opts...)
		if err != nil {
			return err
		}
		return a.showKey(f, keyResult{Key: in[0]}, rc, func(w io.Writer) { fmt.Fprintln(w, "OK") })
	})
	c.Flags().DurationVar(&ttl, "ttl", 0, "expires after this long")
	ttlGiven = func() bool { return c.Flags().Changed("ttl") }
	c.Flags().BoolVar(&ifAbsent, "if-absent", false, "only if the key is not there")
	c.Flags().BoolVar(&ifPresent, "if-present", false, "only if the key is there")
	return c
}

// value is an argument, or standard input for "-".
func (a *app) value(arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	return io.ReadAll(io.LimitReader(a.in, fulcrum.MaxMessageBytes))
}

func (a *app) deleteCommand() *cobra.Command {
	var version string
	var versionGiven func() bool // an empty --version is not "any"
	var ifPresent bool
	c := a.writeCommand(&cobra.Command{
		Use: "delete KEY", Aliases: []string{"del"}, Short: "Remove a key", Args: args(cobra.ExactArgs(1)),
		Long: `Remove a key, whether it is there or not. With --if-present or --version it must be
there, or have that version, as a receipt or an ETag shows it: exit code 1 when it does
not match; then nothing was changed.`,
		Example: "  fulcrum delete -k cp balance\n  fulcrum delete -k cp balance --version 1a20ae6a2e80000.5",
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		switch {
		case versionGiven() && ifPresent:
			return usageError{err: errors.New("--version says that the key must be there: leave --if-present out")}
		case versionGiven():
			at, err := fulcrum.ParseVersion(version)
			if err != nil {
				return usageError{err: err}
			}
			opts = append(opts, client.IfVersion(at))
		case ifPresent:
			opts = append(opts, client.IfPresent())
		}
		rc, err := cl.Delete(ctx, f.keyspace, in[0], opts...)
		if err != nil {
			return err
		}
		return a.showKey(f, keyResult{Key: in[0]}, rc, func(w io.Writer) { fmt.Fprintln(w, "OK") })
	})
	c.Flags().StringVar(&version, "version", "", "only if the key has this version")
	c.Flags().BoolVar(&ifPresent, "if-present", false, "only if the key is there")
	versionGiven = func() bool { return c.Flags().Changed("version") }
	return c
}

func (a *app) incrCommand() *cobra.Command {
	return a.writeCommand(&cobra.Command{
		Use: "incr KEY [DELTA]", Short: "Add to a key's number, atomically", Example: "  fulcrum incr -k cp visits\n  fulcrum incr -k cp visits 10 --request-id 7f3a    # run it twice: 10 are added once\n  fulcrum incr -k cp stock -- -1", Args: args(cobra.RangeArgs(1, 2)),
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		delta := int64(1)
		if len(in) == 2 {
			var err error
			if delta, err = strconv.ParseInt(in[1], 10, 64); err != nil {
				return usageError{err: fmt.Errorf("delta %q is not an integer", in[1])}
			}
		}
		n, rc, err := cl.Incr(ctx, f.keyspace, in[0], delta, opts...)
		if err != nil {
			return err
		}
		text := strconv.FormatInt(n, 10)
		return a.showKey(f, keyResult{Key: in[0], Value: &text}, rc, func(w io.Writer) { fmt.Fprintln(w, n) })
	})
}

func (a *app) casCommand() *cobra.Command {
	var version string
	c := a.writeCommand(&cobra.Command{
		Use: "cas KEY OLD NEW", Short: "Write NEW if the key holds OLD (or, with --version, that version): compare-and-set",
		Long: `Write NEW if the key holds OLD, atomically. With --version the key must still have
that version, as a receipt or an ETag shows it, and OLD is left out: cas KEY NEW --version V.
Exit code 1 when it does not match; then nothing was changed.`,
		Args: args(cobra.RangeArgs(2, 3)),
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
		at, value := fulcrum.Version{}, in[len(in)-1]
		switch {
		case version != "" && len(in) == 2:
			var err error
			if at, err = fulcrum.ParseVersion(version); err != nil {
				return usageError{err: err}
			}
		case version == "" && len(in) == 3 && f.named:
			return a.casValue(ctx, cl, f, opts, in)
		case version == "" && len(in) == 3:
			item, err := cl.Get(ctx, f.keyspace, in[0], append(on(f.node), client.Level(consistency.L(consistency.Linearizable)))...)
			if errors.Is(err, fulcrum.ErrNotFound) || err == nil && string(item.Value) != in[1] {
				return fulcrum.Errorf(fulcrum.CodeConflict, "%q does not hold %q: nothing was changed", in[0], in[1])
			}
			if err != nil {
				return err
			}
			at = item.Version
		default:
			return usageError{err: errors.New("give KEY OLD NEW, or KEY NEW --version V")}
		}
		rc, err := cl.Put(ctx, f.keyspace, in[0], []byte(value), append(opts, client.IfVersion(at))...)
		if err != nil {
			return err
		}
		return a.showKey(f, keyResult{Key: in[0]}, rc, func(w io.Writer) { fmt.Fprintln(w, "OK") })
	})
	c.Flags().StringVar(&version, "version", "", "the version that the key must have")
	return c
}

// casValue is cas under a request id: one transaction, since a read before it would see
// what the first of two did.
func (a *app) casValue(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, in []string) error {
	res, err := cl.Txn(ctx, f.keyspace, client.Txn{Then: []client.Op{client.OpPut(in[0], []byte(in[2])).IfValue([]byte(in[1]))}}, opts...)
	switch {
	case errors.Is(err, fulcrum.ErrConflict) && res.Receipt.Keyspace != "" && !client.Unknown(err):
		return fulcrum.Errorf(fulcrum.CodeConflict, "%q does not hold %q: nothing was changed", in[0], in[1])
	case err != nil:
		return err
	}
	return a.showKey(f, keyResult{Key: in[0], Version: res.Results[0].Version.String()}, res.Receipt, func(w io.Writer) { fmt.Fprintln(w, "OK") })
}

func (a *app) scanCommand() *cobra.Command {
	var r client.Range
	c := a.keyCommand(&cobra.Command{
		Use: "scan", Short: "List keys and values in key order", Args: noArgs,
		Example: "  fulcrum scan -k lf --prefix user: --limit 10",
	}, func(ctx context.Context, cl *client.Client, f *keyFlags, opts []client.CallOption, _ []string) error {
		if r.Limit < 0 {
			return usageError{err: fmt.Errorf("--limit %d: must not be negative", r.Limit)}
		}
		items, names := []keyResult{}, []string{}
		var rc consistency.Receipt
		for item, err := range cl.Scan(ctx, f.keyspace, r, opts...) {
			if err != nil {
				return err
			}
			items, names, rc = append(items, resultOf(f.keyspace, item)), append(names, item.Key), item.Receipt
		}
		if err := a.show(items, func(w *tabwriter.Writer) {
			for i, k := range items {
				row(w, strconv.Quote(names[i]), *k.Value)
			}
		}); err != nil || !f.receipt || a.asJSON() {
			return err
		}
		fmt.Fprintln(os.Stderr, rc.Header())
		return nil
	})
	fl := c.Flags()
	fl.StringVar(&r.Prefix, "prefix", "", "only keys that begin with this")
	fl.StringVar(&r.Start, "start", "", "from this key on")
	fl.StringVar(&r.End, "end", "", "before this key")
	fl.IntVar(&r.Limit, "limit", 0, "at most so many (0: all)")
	return c
}
