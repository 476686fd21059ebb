package raft

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// logger gives the library's messages to slog, one level lower: what it calls an
// error is a peer that does not answer. Debug messages are dropped.
type logger struct {
	to   *slog.Logger
	name string
	args []any
}

func newLogger(to *slog.Logger) hclog.Logger { return logger{to: to, name: "raft"} }

func (l logger) Log(level hclog.Level, msg string, args ...any) {
	switch level {
	case hclog.Error, hclog.Warn:
		l.emit(slog.LevelInfo, msg, args)
	case hclog.Info:
		l.emit(slog.LevelDebug, msg, args)
	}
}

// emit renders values at once, and only if somebody listens: the library goes on
// changing what it hands over.
func (l logger) emit(level slog.Level, msg string, args []any) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 1 {
			if s, ok := f[0].(string); ok {
				args[i] = strings.ReplaceAll(s, "%+v", "") + "..."
			}
		}
	}
	l.to.Log(context.Background(), level, "raft: "+msg, args...)
}

func (l logger) Trace(string, ...any)          {}
func (l logger) Debug(string, ...any)          {}
func (l logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }
func (l logger) IsTrace() bool                 { return false }
func (l logger) IsDebug() bool                 { return false }
func (l logger) IsInfo() bool                  { return true }
func (l logger) IsWarn() bool                  { return true }
func (l logger) IsError() bool                 { return true }
func (l logger) ImpliedArgs() []any            { return l.args }
func (l logger) With(args ...any) hclog.Logger {
	l.to = l.to.With(args...)
	l.args = append(l.args[:len(l.args):len(l.args)], args...)
	return l
}
func (l logger) Name() string                        { return l.name }
func (l logger) Named(name string) hclog.Logger      { l.name += "." + name; return l }
func (l logger) ResetNamed(name string) hclog.Logger { l.name = name; return l }
func (l logger) SetLevel(hclog.Level)                {}
func (l logger) GetLevel() hclog.Level               { return hclog.Info }
func (l logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
func (l logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }

var _ hclog.Logger = logger{}
