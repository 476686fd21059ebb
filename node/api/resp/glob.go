package resp

// globMatch reports whether s matches Redis's glob pattern: * ? [abc] [^a] [a-z]
// and \ before a character that stands for itself. It takes O(len(pattern)*len(s))
// time at most and does not recurse: on a mismatch only the last * takes one byte
// more, since an earlier one could not do better.
func globMatch(pattern, s []byte) bool {
	p, i := 0, 0
	star, mark := -1, 0 // where the last * was, and where s went on behind what it took
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if p < len(pattern) {
			if next, ok := globOne(pattern, p, s[i]); ok {
				p = next
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globOne matches the single-character pattern at p and returns where it ends.
func globOne(pattern []byte, p int, c byte) (int, bool) {
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '[':
		return globClass(pattern, p+1, c)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return p + 1, pattern[p] == c
}

func globClass(pattern []byte, p int, c byte) (int, bool) {
	not := p < len(pattern) && pattern[p] == '^'
	if not {
		p++
	}
	hit := false
	for p < len(pattern) && pattern[p] != ']' {
		switch {
		case pattern[p] == '\\' && p+1 < len(pattern):
			hit = hit || pattern[p+1] == c
			p += 2
		case p+2 < len(pattern) && pattern[p+1] == '-':
			lo, hi := min(pattern[p], pattern[p+2]), max(pattern[p], pattern[p+2])
			hit = hit || (lo <= c && c <= hi)
			p += 3
		default:
			hit = hit || pattern[p] == c
			p++
		}
	}
	return min(p+1, len(pattern)), hit != not
}

// globPrefix is what every match of pattern starts with.
func globPrefix(pattern []byte) []byte {
	var prefix []byte
	for p := 0; p < len(pattern); p++ {
		switch pattern[p] {
		case '*', '?', '[':
			return prefix
		case '\\':
			if p+1 < len(pattern) {
				p++
			}
		}
		prefix = append(prefix, pattern[p])
	}
	return prefix
}
