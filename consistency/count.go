package consistency

// Count is how many acknowledgements a level of kind k needs of n replicas,
// wherever they are. It is false for kinds that do not count, or that count by
// zone (see QuotaOf). The count may exceed n: then the level cannot be kept.
func Count(k Kind, n int) (int, bool) {
	switch k {
	case Any, One:
		return 1, true
	case Two:
		return 2, true
	case Three:
		return 3, true
	case QuorumOf, Linearizable:
		return n/2 + 1, true
	case All:
		return n, true
	}
	return 0, false
}

// Quota is how many acknowledgements a level needs, and of which zones. Anywhere
// and every zone of Zones must be satisfied.
type Quota struct {
	Anywhere int
	Zones    map[string]int
}

// QuotaOf is the Quota of kind k over replicas whose zones are given, for a
// coordinator in zone self; false for kinds that do not count replicas.
func QuotaOf(k Kind, zones []string, self string) (Quota, bool) {
	if n, ok := Count(k, len(zones)); ok {
		return Quota{Anywhere: n}, true
	}
	size := make(map[string]int)
	for _, z := range zones {
		size[z]++
	}
	switch k {
	case LocalOne:
		return Quota{Zones: map[string]int{self: 1}}, true
	case LocalQuorum:
		return Quota{Zones: map[string]int{self: size[self]/2 + 1}}, true
	case EachQuorum:
		for z, n := range size {
			size[z] = n/2 + 1
		}
		return Quota{Zones: size}, true
	}
	return Quota{}, false
}

// Met reports whether got, a count of acknowledgements by zone, is enough. With
// the replicas in reach as got it says whether the level can be kept at all.
func (q Quota) Met(got map[string]int) bool {
	total := 0
	for _, n := range got {
		total += n
	}
	for z, n := range q.Zones {
		if got[z] < n {
			return false
		}
	}
	return total >= q.Anywhere
}

// Total is how many acknowledgements q needs at the least.
func (q Quota) Total() int {
	sum := 0
	for _, n := range q.Zones {
		sum += n
	}
	return max(sum, q.Anywhere)
}
