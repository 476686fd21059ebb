package resp

// splitInline splits a line into arguments as Redis does: by white space, with
// "..." (escapes \n \r \t \b \a \\ \" \xHH) and '...' (escape \') around what
// belongs together. It reports false for quotes that are not closed, or closed in
// the middle of a word.
func splitInline(line []byte) ([][]byte, bool) {
	var args [][]byte
	for i := 0; ; {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i == len(line) {
			return args, true
		}
		arg, next, ok := inlineWord(line, i)
		if !ok {
			return nil, false
		}
		args = append(args, arg)
		i = next
	}
}

// inlineWord reads the argument that starts at i and returns where it ends.
func inlineWord(line []byte, i int) (arg []byte, next int, ok bool) {
	arg = []byte{}
	for i < len(line) && !endsWord(line[i]) {
		c := line[i]
		i++
		if c != '"' && c != '\'' {
			arg = append(arg, c)
			continue
		}
		if arg, i, ok = inlineQuoted(arg, line, i, c); !ok {
			return nil, 0, false
		}
		return arg, i, i == len(line) || isSpace(line[i])
	}
	return arg, i, true
}

// inlineQuoted reads up to the closing quote, and returns where it goes on behind it.
func inlineQuoted(arg, line []byte, i int, quote byte) ([]byte, int, bool) {
	for i < len(line) {
		c := line[i]
		switch {
		case c == quote:
			return arg, i + 1, true
		case c == '\\' && quote == '\'' && i+1 < len(line) && line[i+1] == '\'':
			arg = append(arg, '\'')
			i += 2
		case c == '\\' && quote == '"' && i+3 < len(line) && line[i+1] == 'x' && isHex(line[i+2]) && isHex(line[i+3]):
			arg = append(arg, hexValue(line[i+2])<<4|hexValue(line[i+3]))
			i += 4
		case c == '\\' && quote == '"' && i+1 < len(line):
			arg = append(arg, unescape(line[i+1]))
			i += 2
		default:
			arg = append(arg, c)
			i++
		}
	}
	return nil, 0, false
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}

// endsWord is less than isSpace: to Redis \v and \f are part of a word that has begun.
func endsWord(c byte) bool { return isSpace(c) && c != '\v' && c != '\f' }

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') || c == 0 }

func isHex(c byte) bool {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
