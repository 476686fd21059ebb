package httpapi

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	nethttp "net/http"

	"fulcrum"
)

//go:embed status.html
var statusHTML string

//go:embed status.css
var statusCSS string

var statusPage = template.Must(template.New("status").Parse(statusHTML))

// status is a page for people: what one node knows of the cluster. It needs no
// script.
func (h *handler) status(w nethttp.ResponseWriter, r *nethttp.Request) {
	var page bytes.Buffer
	err := statusPage.Execute(&page, struct {
		fulcrum.ClusterInfo
		Ready []fulcrum.Health
		Pprof bool
	}{h.Backend.Cluster(), h.Backend.Ready(), h.Pprof})
	if err != nil {
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeInternal, "status page: %w", err))
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page.Bytes()) // the client may be gone
}

func (h *handler) style(w nethttp.ResponseWriter, _ *nethttp.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = io.WriteString(w, statusCSS) // the client may be gone
}

// health answers 200 when every check passes, else 503, in one line; with
// ?verbose a line for each check.
func (h *handler) health(checks func() []fulcrum.Health) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		var b strings.Builder
		var bad []string
		for _, c := range checks() {
			if c.Err != "" {
				bad = append(bad, c.Check+": "+c.Err)
				fmt.Fprintf(&b, "[-] %s: %s\n", c.Check, c.Err)
				continue
			}
			fmt.Fprintf(&b, "[+] %s: ok\n", c.Check)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		verdict := "ok"
		if len(bad) > 0 {
			verdict = strings.Join(bad, "; ")
			w.WriteHeader(nethttp.StatusServiceUnavailable)
		}
		if r.URL.Query().Has("verbose") {
			_, _ = fmt.Fprint(w, b.String())
		}
		_, _ = fmt.Fprintln(w, verdict)
	}
}
