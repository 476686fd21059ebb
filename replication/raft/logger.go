package raft

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// logger gives the library's messages to slog as debug messages: most of what it
// calls an error is a peer that does not answer, several times a second. What an
// operator must know, core says itself.
type logger struct {
	to   *slog.Logger
	name string
	args []any
}

func newLogger(to *slog.Logger) hclog.Logger { return logger{to: to, name: "raft"} }

// Log renders values at once, and only if somebody listens: the library goes on
// changing what it hands over.
func (l logger) Log(level hclog.Level, msg string, args ...any) {
	if level < hclog.Info || !l.to.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	shown := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case hclog.Format:
			if f, ok := v[0].(string); ok {
				shown[i] = fmt.Sprintf(f, v[1:]...)
			}
		default:
			shown[i] = fmt.Sprint(a)
		}
	}
	l.to.Debug("raft: "+msg, shown...)
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
