package resp

import (
	"io"
	"math"
	"strconv"
)

// maxIdleReply is the largest reply buffer that a connection keeps between flushes.
const maxIdleReply = 256 << 10

// writer collects replies in the protocol version that the client asked for. It
// only sends when flush is called.
type writer struct {
	buf   []byte
	proto int // 2 or 3
}

func (w *writer) crlf() { w.buf = append(w.buf, '\r', '\n') }

func (w *writer) header(kind byte, n int64) {
	w.buf = append(w.buf, kind)
	w.buf = strconv.AppendInt(w.buf, n, 10)
	w.crlf()
}

func (w *writer) simple(s string) {
	w.buf = append(w.buf, '+')
	w.buf = append(w.buf, s...)
	w.crlf()
}

func (w *writer) ok() { w.buf = append(w.buf, "+OK\r\n"...) }

// fail writes an error; s starts with its prefix. Line ends in s become spaces.
func (w *writer) fail(s string) {
	w.buf = append(w.buf, '-')
	for i := range len(s) {
		c := s[i]
		if c == '\r' || c == '\n' {
			c = ' '
		}
		w.buf = append(w.buf, c)
	}
	w.crlf()
}

func (w *writer) integer(n int64) { w.header(':', n) }

// flag is a yes or no in integers.
func (w *writer) flag(yes bool) {
	if yes {
		w.integer(1)
	} else {
		w.integer(0)
	}
}

func (w *writer) bulk(b []byte) {
	w.header('$', int64(len(b)))
	w.buf = append(w.buf, b...)
	w.crlf()
}

func (w *writer) text(s string) {
	w.header('$', int64(len(s)))
	w.buf = append(w.buf, s...)
	w.crlf()
}

// verbatim is text for people: a verbatim string in RESP3.
func (w *writer) verbatim(s string) {
	if w.proto < 3 {
		w.text(s)
		return
	}
	w.header('=', int64(len(s))+4)
	w.buf = append(w.buf, "txt:"...)
	w.buf = append(w.buf, s...)
	w.crlf()
}

func (w *writer) null() {
	if w.proto < 3 {
		w.buf = append(w.buf, "$-1\r\n"...)
		return
	}
	w.buf = append(w.buf, "_\r\n"...)
}

// nullArray differs from null in RESP2 only.
func (w *writer) nullArray() {
	if w.proto < 3 {
		w.buf = append(w.buf, "*-1\r\n"...)
		return
	}
	w.null()
}

func (w *writer) array(n int) { w.header('*', int64(n)) }

// mapping announces n pairs: a flat array in RESP2.
func (w *writer) mapping(n int) {
	if w.proto < 3 {
		w.array(2 * n)
		return
	}
	w.header('%', int64(n))
}

// set announces n different elements: an array in RESP2.
func (w *writer) set(n int) {
	if w.proto < 3 {
		w.array(n)
		return
	}
	w.header('~', int64(n))
}

// double is a bulk in RESP2.
func (w *writer) double(f float64) {
	var s string
	switch {
	case math.IsInf(f, 1):
		s = "inf"
	case math.IsInf(f, -1):
		s = "-inf"
	case math.IsNaN(f):
		s = "nan"
	default:
		s = strconv.FormatFloat(f, 'g', 17, 64)
		if short := strconv.FormatFloat(f, 'g', -1, 64); len(short) < len(s) {
			s = short
		}
	}
	if w.proto < 3 {
		w.text(s)
		return
	}
	w.buf = append(w.buf, ',')
	w.buf = append(w.buf, s...)
	w.crlf()
}

// boolean is an integer in RESP2.
func (w *writer) boolean(b bool) {
	switch {
	case w.proto >= 3 && b:
		w.buf = append(w.buf, "#t\r\n"...)
	case w.proto >= 3:
		w.buf = append(w.buf, "#f\r\n"...)
	case b:
		w.integer(1)
	default:
		w.integer(0)
	}
}

// flush sends everything and gives a large buffer back.
func (w *writer) flush(dst io.Writer) error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := dst.Write(w.buf)
	if cap(w.buf) > maxIdleReply {
		w.buf = nil
	}
	w.buf = w.buf[:0]
	return err
}
