package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/local"
)

const (
	defaultTimeout = 30 * time.Second
	settingsFile   = "fulcrum.yaml"
	envPrefix      = "FULCRUM_"
)

// argsOnly marks a flag that no setting fills, because a setting of its name means
// another command's.
const argsOnly = "args-only"

// app is what all commands share: the terminal, and the flags of the root.
type app struct {
	terminal
	data      string
	endpoints []string
	output    string
	timeout   time.Duration
	config    string
}

// settle fills every flag that was not given from the environment, or else from the
// settings file, and checks what all commands share.
func (a *app) settle(cmd *cobra.Command, _ []string) error {
	if f := cmd.Flags().Lookup("config"); f != nil && !f.Changed {
		if v, ok := os.LookupEnv(envPrefix + "CONFIG"); ok {
			a.config = v
		}
	}
	settings, err := readSettings(a.config)
	if err != nil {
		return usage(cmd, err)
	}
	var wrong []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "version" || f.Annotations[argsOnly] != nil {
			return
		}
		value, from := "", ""
		if v, ok := os.LookupEnv(envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))); ok {
			value, from = v, "environment"
		} else if settings.Exists(f.Name) {
			value, from = strings.Trim(strings.ReplaceAll(fmt.Sprint(settings.Get(f.Name)), " ", ","), "[]"), "settings file"
		} else {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			wrong = append(wrong, fmt.Errorf("--%s from the %s: %w", f.Name, from, err))
		}
	})
	for _, key := range settings.Keys() {
		if !knownFlag(cmd.Root(), key) {
			wrong = append(wrong, fmt.Errorf("setting %q in the settings file belongs to no flag", key))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return usage(cmd, err)
	}
	switch a.output {
	case "", "table", "json":
	default:
		return usagef(cmd, "unknown output %q: use table or json", a.output)
	}
	if a.timeout <= 0 {
		return usagef(cmd, "--timeout %s: must be positive", a.timeout)
	}
	return nil
}

func readSettings(path string) (*koanf.Koanf, error) {
	k := koanf.New("\x00")
	name := path
	if name == "" {
		name = settingsFile
	}
	err := k.Load(file.Provider(name), yaml.Parser())
	if path == "" && errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("settings file %s: %w", name, err)
	}
	return k, nil
}

// knownFlag reports whether any command has a flag of that name.
func knownFlag(c *cobra.Command, name string) bool {
	if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil {
		return true
	}
	for _, sub := range c.Commands() {
		if knownFlag(sub, name) {
			return true
		}
	}
	return false
}

// deadline bounds a command.
func (a *app) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

// longDeadline bounds a command that may take longer than others: by --timeout where it is
// given, be it shorter.
func (a *app) longDeadline(cmd *cobra.Command, usual time.Duration) (context.Context, context.CancelFunc) {
	if cmd.Flags().Changed("timeout") {
		return a.deadline(cmd.Context())
	}
	return context.WithTimeout(cmd.Context(), usual)
}

// cluster is the local cluster, if there is one in --data.
func (a *app) cluster() (*local.Cluster, error) { return local.Load(a.data) }

// connect opens a client on --endpoint, or on the local cluster.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	endpoints := a.endpoints
	if len(endpoints) == 0 {
		c, err := a.cluster()
		if err != nil {
			return nil, err
		}
		endpoints = c.Endpoints()
	}
	return client.New(ctx, endpoints)
}

// on pins calls to a node, if one is named.
func on(node string) []client.CallOption {
	if node == "" {
		return nil
	}
	return []client.CallOption{client.On(fulcrum.NodeID(node))}
}
