package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"fulcrum"
)

// The exit codes of every command.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 3 // definitely not done
	exitUnknown     = 4 // the outcome is unknown
)

// usageError is a wrong command line: exit code 2.
type usageError struct {
	err error
	cmd string
}

func (u usageError) Error() string {
	if u.cmd == "" {
		return u.err.Error()
	}
	return fmt.Sprintf("%v\nsee: %s --help", u.err, u.cmd)
}

func (u usageError) Unwrap() error { return u.err }

func usage(cmd *cobra.Command, err error) error { return usageError{err, cmd.CommandPath()} }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usage(cmd, fmt.Errorf(format, args...))
}

// flagError says how to give an argument that looks like a flag, such as incr's -5.
func flagError(cmd *cobra.Command, err error) error {
	if strings.HasPrefix(err.Error(), "unknown shorthand flag") {
		err = fmt.Errorf("%w (an argument that begins with - goes behind --, as in: incr KEY -- -5)", err)
	}
	return usage(cmd, err)
}

// args wraps a check of positional arguments so that it fails as wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// noArgs refuses arguments; under a command with subcommands that is a mistyped one.
func noArgs(cmd *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usagef(cmd, "unexpected argument %q", a[0])
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usagef(cmd, "unknown command %q: there are %s", a[0], strings.Join(names, ", "))
}

// group makes a command that only holds others: without one it shows its help.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(sub...)
	return c
}

// report prints an error with its hint and returns the exit code.
func report(t terminal, err error) int {
	if err == nil {
		return exitDone
	}
	var quiet silent
	if errors.As(err, &quiet) {
		return quiet.code
	}
	fmt.Fprintln(t.err, "fulcrum: "+err.Error())
	return exitCode(err)
}

// silent ends a command with a code after it has said everything itself.
type silent struct{ code int }

func (s silent) Error() string { return fmt.Sprintf("exit code %d", s.code) }

func exitCode(err error) int {
	var u usageError
	var open undecided
	var e *fulcrum.Error
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &open): // whatever it holds: 1 would be a verdict
		return exitUndecided
	case errors.As(err, &e):
		switch {
		case e.Maybe || e.Code == fulcrum.CodeUnknown:
			return exitUnknown
		case e.Code == fulcrum.CodeUnavailable, e.Code == fulcrum.CodeOverloaded, e.Code == fulcrum.CodeNotLeader, e.Code == fulcrum.CodeEpoch, e.Code == fulcrum.CodeDisk:
			return exitUnavailable
		case e.Code == fulcrum.CodeLevel, e.Code == fulcrum.CodeMode, e.Code == fulcrum.CodeInvalid:
			return exitUsage
		}
	}
	return exitFailed
}
