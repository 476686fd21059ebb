package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	process  bool // the command has a process of its own, which it may start again
}

// isTerminal reports whether w is one, so that people get tables and programs JSON.
func isTerminal(w io.Writer) bool {
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
