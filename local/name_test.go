package local

import "testing"

// A node that was removed has left its directory: a new one under its name would start on
// it, and take itself for a member.
func TestANewNodeIsNotNamedLikeARemovedOne(t *testing.T) {
	c := &Cluster{Dir: "/data", BasePort: 7000, Nodes: []Node{newNode("/data", 7000, 1, ""), newNode("/data", 7000, 2, "")}}
	if got := c.NextName(); got != "n3" {
		t.Errorf("after n2 comes %s", got)
	}
	c.Gone = []string{newNode("/data", 7000, 4, "").Dir}
	if got := c.NextName(); got != "n5" {
		t.Errorf("after n4, which was removed, comes %s", got)
	}
}
