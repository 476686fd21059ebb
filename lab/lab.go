// Package lab runs the guide's examples as experiments on a live cluster: it does
// what a chapter describes, with real requests and injected faults, and reports what
// it measured. Nothing in a Report is known beforehand.
//
// Start reading at Experiment and Report; cap.go is the CAP theorem. What is done is
// recorded (record.go) and judged by pure functions: rows.go turns operations into
// rows, findings.go turns rows into sentences.
package lab

import (
	"context"
	"log/slog"
	"strings"

	"fulcrum"
	"fulcrum/client"
)

// Experiment is one thing to try.
type Experiment struct {
	Name  string                                       `json:"name"`
	Title string                                       `json:"title"`
	About string                                       `json:"about"` // a paragraph: what is done and what to look at
	Run   func(context.Context, *Env) (*Report, error) `json:"-"`
}

// Env is what an experiment runs in.
type Env struct {
	// Client reaches a cluster that was started with --allow-faults and has no fault
	// active. The experiment makes keyspaces of its own in it and touches no other.
	Client *client.Client

	Keep     bool                               // leave the experiment's keyspaces there
	Progress func(done, total int, what string) // nil: nobody watches
	Log      *slog.Logger                       // nil: nowhere
}

func (e *Env) progress(done, total int, what string) {
	if e.Progress != nil {
		e.Progress(done, total, what)
	}
}

func (e *Env) log() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

// List returns all experiments, in the order in which to try them.
func List() []Experiment {
	return []Experiment{{
		Name:  "cap",
		Title: "The CAP theorem, measured",
		About: "Cuts the network in two and asks both sides, in a keyspace of each mode (cp: raft, ap: quorum, " +
			"lf: leader-follower) and in one with a single replica (ca). Shows who answers, how fresh the answers are, " +
			"which acknowledged writes are gone after the network heals, and how long the nodes take to agree again.",
		Run: func(ctx context.Context, e *Env) (*Report, error) {
			return runCAP(ctx, &remote{e.Client}, e)
		},
	}}
}

// Find returns the experiment of that name; its error, of CodeNotFound, lists those
// that there are.
func Find(name string) (Experiment, error) {
	var names []string
	for _, x := range List() {
		if x.Name == name {
			return x, nil
		}
		names = append(names, x.Name)
	}
	return Experiment{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no experiment %q", name).WithHint("there are: %s", strings.Join(names, ", "))
}
