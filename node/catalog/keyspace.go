package catalog

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/partition"
)

// Limits of keyspaces.
const (
	MaxShards    = 1024
	MaxReplicas  = 7
	maxKeyspaces = 256
)

var validName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}$`)

// CheckName refuses what is no name of a keyspace or a node.
func CheckName(kind, name string) error {
	if !validName.MatchString(name) {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%s name %q: want 1 to 64 of letters, digits, '_', '.', '-', not beginning with '.' or '-'", kind, name)
	}
	return nil
}

// Check fills the defaults of spec and refuses what cannot be. nodes is how many
// there are to place replicas on, zones the names of their zones.
func Check(spec fulcrum.KeyspaceSpec, nodes int, zones []string) (Settings, error) {
	bad := func(format string, args ...any) (Settings, error) {
		return Settings{}, fulcrum.Errorf(fulcrum.CodeInvalid, format, args...)
	}
	if err := CheckName("keyspace", spec.Name); err != nil {
		return Settings{}, err
	}
	mode, err := consistency.ParseMode(cmp.Or(spec.Mode, "raft"))
	if err != nil {
		return bad("%w", err)
	}
	st := Settings{Name: spec.Name, Mode: mode, Scheme: cmp.Or(spec.ShardBy, "hash")}
	var scheme partition.Scheme
	if err := scheme.UnmarshalText([]byte(st.Scheme)); err != nil {
		return bad("%w", err)
	}
	shards := cmp.Or(spec.Shards, 4)
	if shards < 1 || shards > MaxShards {
		return bad("%d shards: want 1 to %d", spec.Shards, MaxShards)
	}
	switch scheme {
	case partition.Zone:
		if len(zones) == 0 {
			return bad("zone sharding needs nodes with zones: start them with --zone")
		}
		st.Starts = partition.SplitZones(zones)
	default:
		st.Starts = partition.Split(scheme, shards)
	}
	if st.Replicas = cmp.Or(spec.Replicas, min(3, nodes)); st.Replicas < 1 || st.Replicas > MaxReplicas {
		return bad("%d replicas: want 1 to %d", st.Replicas, MaxReplicas)
	}
	if st.Replicas > nodes {
		return bad("%d replicas on %d nodes: a node holds at most one replica of a shard", st.Replicas, nodes)
	}
	write, read := consistency.Defaults(mode)
	if st.WriteLevel, err = checkLevel(mode, consistency.Write, spec.WriteLevel, write); err != nil {
		return Settings{}, err
	}
	if st.ReadLevel, err = checkLevel(mode, consistency.Read, spec.ReadLevel, read); err != nil {
		return Settings{}, err
	}
	if st.Durability, err = oneOf("durability", spec.Durability, "fsync", "interval", "memory"); err != nil {
		return Settings{}, err
	}
	if st.Conflict, err = oneOf("conflict rule", spec.Conflict, "lww"); err != nil {
		return Settings{}, err
	}
	if st.Engine, err = oneOf("engine", spec.Engine, "bbolt"); err != nil {
		return Settings{}, err
	}
	return st, nil
}

// oneOf returns value, or the first choice if it is empty; it refuses anything else.
func oneOf(what, value string, choices ...string) (string, error) {
	if value == "" {
		return choices[0], nil
	}
	if !slices.Contains(choices, value) {
		return "", fulcrum.Errorf(fulcrum.CodeInvalid, "unknown %s %q: use one of %s", what, value, strings.Join(choices, ", "))
	}
	return value, nil
}

func checkLevel(m consistency.Mode, a consistency.Access, text string, def consistency.Level) (consistency.Level, error) {
	l, err := consistency.ParseLevel(text)
	if err != nil {
		return l, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	if l == (consistency.Level{}) {
		return def, nil
	}
	_, err = consistency.Lookup(m, a, l)
	return l, err
}

// CheckPatch turns a patch of keyspace ks into a command, or refuses it.
func CheckPatch(ks *Keyspace, p fulcrum.KeyspacePatch) (AlterKeyspace, error) {
	a := AlterKeyspace{Name: ks.Name, Abort: p.Abort}
	mode := ks.Target
	if p.Mode != nil {
		m, err := consistency.ParseMode(*p.Mode)
		if err != nil {
			return a, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
		}
		if p.Abort {
			return a, fulcrum.Errorf(fulcrum.CodeInvalid, "a switch is either begun or aborted: give a mode or --abort, not both")
		}
		a.Mode, mode = &m, m
	}
	level := func(text *string, access consistency.Access) (*consistency.Level, error) {
		if text == nil {
			return nil, nil
		}
		write, read := consistency.Defaults(mode)
		def := read
		if access == consistency.Write {
			def = write
		}
		l, err := checkLevel(mode, access, *text, def)
		return &l, err
	}
	var err error
	if a.ReadLevel, err = level(p.ReadLevel, consistency.Read); err != nil {
		return a, err
	}
	if a.WriteLevel, err = level(p.WriteLevel, consistency.Write); err != nil {
		return a, err
	}
	if p.Durability != nil {
		if _, err = oneOf("durability", *p.Durability, "fsync", "interval", "memory"); err != nil {
			return a, err
		}
		a.Durability = p.Durability
	}
	if p.Conflict != nil {
		if _, err = oneOf("conflict rule", *p.Conflict, "lww"); err != nil {
			return a, err
		}
		a.Conflict = p.Conflict
	}
	return a, nil
}

func (s *State) createKeyspace(st Settings) error {
	if _, ok := s.Keyspaces[st.Name]; ok {
		return fulcrum.Errorf(fulcrum.CodeExists, "keyspace %q exists already", st.Name).WithHint("see fulcrum keyspace describe %s", st.Name)
	}
	if len(s.Keyspaces) >= maxKeyspaces {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "there are %d keyspaces already, the limit", maxKeyspaces)
	}
	ks := &Keyspace{Name: st.Name, ID: s.NextID, Mode: st.Mode, Target: st.Mode, Replicas: st.Replicas,
		ReadLevel: st.ReadLevel, WriteLevel: st.WriteLevel, Durability: st.Durability, Conflict: st.Conflict, Engine: st.Engine}
	if err := ks.Scheme.UnmarshalText([]byte(st.Scheme)); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	candidates := s.Candidates("")
	if len(candidates) < st.Replicas {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%d replicas on %d nodes: a node holds at most one replica of a shard", st.Replicas, len(candidates))
	}
	for _, start := range st.Starts {
		sh := &Shard{Group: s.NextGroup, Start: start, Mode: st.Mode, Epoch: 1, Phase: Active}
		sh.Replicas = partition.Place(sh.Group, st.Replicas, zoned(candidates, ks, start))
		sh.Based = sh.Replicas // all begin with nothing
		ks.Shards = append(ks.Shards, sh)
		s.NextGroup++
	}
	s.NextID++
	s.Keyspaces[st.Name] = ks
	return nil
}

// Candidates are the nodes that replicas may be placed on, without one of them.
func (s *State) Candidates(without fulcrum.NodeID) []partition.Candidate {
	var cs []partition.Candidate
	for _, name := range s.NodeNames() {
		if n := s.Nodes[name]; !n.Removing && name != without {
			cs = append(cs, partition.Candidate{Node: name, Zone: n.Zone, Weight: 1})
		}
	}
	return cs
}

// zoned makes nodes of the shard's own zone win in a zone-sharded keyspace.
func zoned(cs []partition.Candidate, ks *Keyspace, start []byte) []partition.Candidate {
	if ks.Scheme != partition.Zone {
		return cs
	}
	zone, _, _ := strings.Cut(string(start), "/")
	out := slices.Clone(cs)
	for i := range out {
		if out[i].Zone == zone {
			out[i].Weight = 1e6
		}
	}
	return out
}

func (s *State) alterKeyspace(a AlterKeyspace, at time.Time) error {
	ks, err := s.keyspace(a.Name)
	if err != nil {
		return err
	}
	switch {
	case a.Abort:
		if err := ks.abort(at); err != nil {
			return err
		}
	case a.Mode != nil:
		if ks.Target != ks.Mode {
			return fulcrum.Errorf(fulcrum.CodeConflict, "keyspace %s is being switched from %s to %s already", ks.Name, ks.Mode, ks.Target).
				WithHint("wait until it is done, or run: fulcrum keyspace alter %s --abort", ks.Name)
		}
		if *a.Mode == ks.Mode {
			return nil
		}
		ks.Target = *a.Mode
		ks.Switch = &fulcrum.SwitchInfo{From: ks.Mode.String(), To: a.Mode.String(), State: "running", Total: len(ks.Shards), Started: at}
	}
	if a.ReadLevel != nil {
		ks.ReadLevel = *a.ReadLevel
	}
	if a.WriteLevel != nil {
		ks.WriteLevel = *a.WriteLevel
	}
	if a.Durability != nil {
		ks.Durability = *a.Durability
	}
	if a.Conflict != nil {
		ks.Conflict = *a.Conflict
	}
	return nil
}

func (ks *Keyspace) abort(at time.Time) error {
	if ks.Target == ks.Mode {
		return fulcrum.Errorf(fulcrum.CodeConflict, "keyspace %s is not being switched", ks.Name)
	}
	for _, sh := range ks.Shards {
		if sh.Mode == ks.Target && sh.Phase == Active {
			return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d of %s runs in mode %s already: the switch can no longer be aborted", sh.Group, ks.Name, ks.Target).
				WithHint("let it finish, then switch back")
		}
	}
	ks.Target = ks.Mode
	ks.Switch.State = "aborting"
	for _, sh := range ks.Shards {
		if sh.Next != nil { // a fence is for good: go on to a new epoch of the old mode
			next := *sh.Next
			next.Mode = ks.Mode
			sh.Next = &next
		}
	}
	ks.progress(at)
	return nil
}

// progress counts the shards that reached the target, and ends the switch.
func (ks *Keyspace) progress(at time.Time) {
	if ks.Switch == nil || ks.Switch.State == "done" || ks.Switch.State == "aborted" {
		return
	}
	done := 0
	for _, sh := range ks.Shards {
		if sh.Mode == ks.Target && sh.Phase == Active {
			done++
		}
	}
	ks.Switch.Done = done
	if done < len(ks.Shards) {
		return
	}
	ks.Switch.Finished = at
	if ks.Switch.State == "aborting" {
		ks.Switch.State = "aborted"
		return
	}
	ks.Switch.State = "done"
	ks.Mode = ks.Target
	write, read := consistency.Defaults(ks.Mode)
	if _, err := consistency.Lookup(ks.Mode, consistency.Write, ks.WriteLevel); err != nil {
		ks.WriteLevel = write
	}
	if _, err := consistency.Lookup(ks.Mode, consistency.Read, ks.ReadLevel); err != nil {
		ks.ReadLevel = read
	}
}

func (s *State) dropKeyspace(name string) error {
	if _, err := s.keyspace(name); err != nil {
		return err
	}
	delete(s.Keyspaces, name)
	return nil
}

func (s *State) keyspace(name string) (*Keyspace, error) {
	ks, ok := s.Keyspaces[name]
	if !ok {
		return nil, NoKeyspace(name, s)
	}
	return ks, nil
}

// NoKeyspace is the error for a keyspace that is not there.
func NoKeyspace(name string, s *State) error {
	if len(s.Nodes) == 0 {
		return errUnheard()
	}
	return fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", name).WithHint("there are: %s", strings.Join(s.Names(), ", "))
}

// NoNumber is the same for a Redis database number.
func NoNumber(id uint32, s *State) error {
	if len(s.Nodes) == 0 {
		return errUnheard()
	}
	return fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace has the number %d", id).WithHint("see fulcrum keyspace list")
}

// errUnheard: of a keyspace that a starting node does not know yet it must not be said
// that there is none, which a client would take for the answer.
func errUnheard() error {
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "this node has not heard of its cluster yet").WithHint("see /readyz")
}
