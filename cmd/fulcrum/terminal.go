package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
)

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	process  bool // the command has a process of its own, which it may start again
}

// output is where a command writes its result. It remembers what went wrong: a result that
// nobody gets must not end in exit code 0, whatever way it was written.
type output struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = err
		}
	}
	return n, err
}

// lost is the error of a command that ended with err, and failed in nothing but its output.
func (o *output) lost(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil || err != nil && !errors.Is(err, o.err) {
		return nil
	}
	return fmt.Errorf("what was asked for was done, but its result could not be written: %w", o.err)
}

// isTerminal reports whether w is one, so that people get tables and programs JSON.
func isTerminal(w io.Writer) bool {
	if o, ok := w.(*output); ok {
		w = o.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// asJSON reports whether the result is to be printed as JSON.
func (a *app) asJSON() bool {
	return a.output == "json" || a.output == "" && !isTerminal(a.out)
}

// show prints a result: v as JSON, or what table writes.
func (a *app) show(v any, table func(w *tabwriter.Writer)) error {
	if a.asJSON() {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

// progress draws a bar on a terminal, and nothing elsewhere.
func (a *app) progress() func(done, total int, what string) {
	if !isTerminal(a.err) {
		return func(int, int, string) {}
	}
	return func(done, total int, what string) {
		const width = 24
		filled := width * done / max(total, 1)
		fmt.Fprintf(a.err, "\r\x1b[K[%s%s] %s", strings.Repeat("=", filled), strings.Repeat(" ", width-filled), what)
		if done >= total {
			fmt.Fprint(a.err, "\r\x1b[K")
		}
	}
}

func encodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
