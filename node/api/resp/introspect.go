package resp

import "strings"

// runCommand is COMMAND and its subcommands.
func runCommand(c *conn, args [][]byte) {
	if len(args) == 1 {
		c.out.array(len(c.s.names))
		for _, name := range c.s.names {
			c.writeCommand(c.s.commands[name])
		}
		return
	}
	switch {
	case word(args[1], "COUNT") && len(args) == 2:
		c.out.integer(int64(len(c.s.names)))
	case word(args[1], "LIST") && len(args) == 2:
		c.out.array(len(c.s.names))
		for _, name := range c.s.names {
			c.out.text(name)
		}
	case word(args[1], "INFO"):
		chosen := c.chosen(args[2:])
		c.out.array(len(chosen))
		for _, cmd := range chosen {
			c.writeCommand(cmd)
		}
	case word(args[1], "DOCS"):
		c.commandDocs(c.chosen(args[2:]))
	case word(args[1], "GETKEYS") && len(args) > 2:
		c.commandKeys(args[2:])
	default:
		c.out.fail("ERR unknown subcommand or wrong number of arguments for '" + string(args[1][:min(len(args[1]), 64)]) + "'. Try COMMAND COUNT, LIST, INFO, DOCS or GETKEYS.")
	}
}

// chosen are the commands named by args, nil for unknown ones; all when there are none.
func (c *conn) chosen(args [][]byte) []*command {
	var list []*command
	if len(args) == 0 {
		for _, name := range c.s.names {
			list = append(list, c.s.commands[name])
		}
	}
	for _, a := range args {
		list = append(list, c.s.lookup(a))
	}
	return list
}

func (c *conn) writeCommand(cmd *command) {
	w := &c.out
	if cmd == nil {
		w.null()
		return
	}
	flags := strings.Fields(cmd.flags)
	w.array(10)
	w.text(cmd.name)
	w.integer(int64(cmd.arity))
	w.set(len(flags))
	for _, f := range flags {
		w.simple(f)
	}
	w.integer(int64(cmd.first))
	w.integer(int64(cmd.last))
	w.integer(int64(cmd.step))
	w.set(1)
	w.simple("@" + cmd.group)
	w.array(0) // tips
	w.array(0) // key specifications
	w.array(0) // subcommands
}

func (c *conn) commandDocs(list []*command) {
	n := 0
	for _, cmd := range list {
		if cmd != nil {
			n++
		}
	}
	w := &c.out
	w.mapping(n)
	for _, cmd := range list {
		if cmd == nil {
			continue
		}
		w.text(cmd.name)
		w.mapping(3)
		w.text("summary")
		w.text(cmd.summary)
		w.text("since")
		w.text(cmd.since)
		w.text("group")
		w.text(cmd.group)
	}
}

func (c *conn) commandKeys(args [][]byte) {
	cmd := c.s.lookup(args[0])
	switch {
	case cmd == nil:
		c.out.fail("ERR Invalid command specified")
		return
	case cmd.first == 0:
		c.out.fail("ERR The command has no key arguments")
		return
	case !cmd.fits(len(args)):
		c.out.fail("ERR Invalid number of arguments specified for command")
		return
	}
	last := cmd.last
	if last < 0 {
		last = len(args) + last
	}
	var keys [][]byte
	for i := cmd.first; i <= last; i += cmd.step {
		keys = append(keys, args[i])
	}
	c.out.array(len(keys))
	for _, k := range keys {
		c.out.bulk(k)
	}
}
