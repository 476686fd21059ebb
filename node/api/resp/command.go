package resp

import (
	"slices"

	"fulcrum"
)

// Values of fulcrum.KeyspaceInfo.Mode: of the one whose log decides what has expired, and of
// the leaderless one, in which only blind writes can be done and nobody knows what stood at a
// key before.
const (
	raftMode   = "raft"
	quorumMode = "quorum"
)

// command is one entry of the table. Exactly one of read and write may be set, for
// commands of one key, which then share calls with their neighbours in a pipeline;
// run takes everything else, and what those refuse with errAlone.
type command struct {
	name    string
	arity   int // arguments with the name; negative: at least so many
	flags   string
	first   int // position of the first key; 0: none
	last    int
	step    int
	group   string
	since   string
	summary string

	write func(c *conn, args [][]byte, w *fulcrum.Write) (writeReply, int64, error)
	read  func(args [][]byte) (readReply, int64, int64, error)
	bare  bool // read needs no value
	run   func(c *conn, args [][]byte)

	// inside is the form of the command inside MULTI; nil: that of write or read, or,
	// without either, it has none. It must not call the backend, nor keep args.
	inside func(c *conn, args [][]byte) (txnStep, error)
}

func (cmd *command) fits(args int) bool {
	return args == cmd.arity || (cmd.arity < 0 && args >= -cmd.arity)
}

// receipt reports whether the command works on keys: RECEIPT tells of the last such one.
func (cmd *command) receipt() bool {
	switch cmd.name {
	case "exec", "scan", "keys", "randomkey", "flushdb":
		return true
	}
	return cmd.first > 0
}

// lookup finds a command by name, in any case of letters.
func (s *Server) lookup(name []byte) *command {
	var lower [24]byte
	if len(name) > len(lower) {
		return nil
	}
	for i, ch := range name {
		if 'A' <= ch && ch <= 'Z' {
			ch += 'a' - 'A'
		}
		lower[i] = ch
	}
	return s.commands[string(lower[:len(name)])]
}

// commandTable makes the table, and the sorted names.
func commandTable() (map[string]*command, []string) {
	table := map[string]*command{}
	var names []string
	for _, list := range [][]command{stringCommands(), keyCommands(), connectionCommands(), transactionCommands(), serverCommands(), fulcrumCommands()} {
		for i := range list {
			table[list[i].name] = &list[i]
			names = append(names, list[i].name)
		}
	}
	slices.Sort(names)
	return table, names
}

// word compares an option word in any case of letters; want is in upper case.
func word(arg []byte, want string) bool {
	if len(arg) != len(want) {
		return false
	}
	for i, ch := range arg {
		if 'a' <= ch && ch <= 'z' {
			ch -= 'a' - 'A'
		}
		if ch != want[i] {
			return false
		}
	}
	return true
}
