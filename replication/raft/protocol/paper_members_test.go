package protocol_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// wantMembers is the configuration in force.
func (p *replica) wantMembers(names string, at uint64) {
	p.t.Helper()
	c, index := p.r.Configuration()
	if !slices.Equal(c.Members, members(names).Members) || index != at {
		p.t.Errorf("configuration %v at %d, want %s at %d", c.Members, index, names, at)
	}
}

func (p *replica) configure(names string) error {
	_, _, err := p.r.Configure(p.now, members(names))
	p.do()
	return err
}

// One change at a time (thesis 4.1), and only once the leader has committed in its term
// (Ongaro's correction of 2015-07-10).
func TestConfigureWaits(t *testing.T) {
	p := boot(t, "a", "abc", 1)
	if err := p.configure("ab"); !errors.Is(err, protocol.ErrNotLeader) {
		t.Errorf("a follower: %v", err)
	}
	p.lead()
	if err := p.configure("abcd"); !errors.Is(err, protocol.ErrBusy) {
		t.Errorf("before it has committed: %v", err)
	}
	noop := p.first("c")
	p.taken("b", p.first("b"))
	if err := p.configure("abcd"); err != nil {
		t.Fatal(err)
	}
	p.wantMembers("abcd", 3) // before it is committed
	change := *p.wantSent("b", 2, 1)
	if err := p.configure("abc"); !errors.Is(err, protocol.ErrBusy) {
		t.Errorf("while one is under way: %v", err)
	}
	p.taken("b", &change)
	p.wantCommit(2) // two of four
	p.taken("c", noop)
	p.wantCommit(2)
	p.taken("c", p.wantSent("c", 2, 1))
	p.wantCommit(3)
	if err := p.configure("abc"); err != nil {
		t.Error(err)
	}
}

// A configuration counts from when it is in the log; if it is cut off, the one before
// counts again (thesis 4.1).
func TestConfigurationIsCut(t *testing.T) {
	p := boot(t, "a", "abc", 1)
	p.append("b", protocol.Append{Term: 1, Prev: 1, PrevTerm: 1, Entries: []protocol.Entry{change(2, 1, "abcd")}, Commit: 2})
	p.append("b", protocol.Append{Term: 1, Prev: 2, PrevTerm: 1, Entries: []protocol.Entry{{Index: 3, Term: 1}, change(4, 1, "abcde")}})
	p.wantMembers("abcde", 4)
	p.append("c", protocol.Append{Term: 2, Prev: 3, PrevTerm: 1, Entries: entries(4, 2)})
	p.wantMembers("abcd", 2)
	p.append("c", protocol.Append{Term: 2, Prev: 4, PrevTerm: 2, Entries: []protocol.Entry{change(5, 2, "abd")}})
	p.wantMembers("abd", 5)
	p.append("d", protocol.Append{Term: 3, Prev: 4, PrevTerm: 2, Entries: []protocol.Entry{change(5, 3, "abdE")}})
	p.wantMembers("abdE", 5)
	p.restart("a")
	p.wantMembers("abdE", 5)
	p.append("d", protocol.Append{Term: 4, Prev: 4, PrevTerm: 2, Entries: entries(5, 4)})
	p.wantMembers("abcd", 2)
}

// A leader that is not in the configuration leads until it is committed, without
// counting itself (thesis 4.2.2).
func TestRemovedLeaderStepsDown(t *testing.T) {
	for _, names := range []string{"bc", "Abc"} {
		p := boot(t, "a", "abc")
		p.lead()
		p.all("b", "c")
		if err := p.configure(names); err != nil {
			t.Fatal(err)
		}
		sent := p.sent
		p.taken("b", p.to("b"))
		p.wantCommit(1) // a does not count
		p.want(protocol.Leader, 1)
		p.sent = sent
		p.taken("c", p.to("c"))
		p.wantCommit(2)
		p.want(protocol.Follower, 1)
		p.tick()
		p.want(protocol.Follower, 1)
		if len(p.sent) > 0 {
			t.Errorf("it asks for votes: %+v", p.sent)
		}
	}
}

// Until the change is known to be committed, who loses its vote by it may be needed:
// nobody else's log may be long enough (thesis 4.2.2, figure 4.6). It does not count
// its own vote.
func TestRemovedCandidate(t *testing.T) {
	for _, names := range []string{"b", "Ab"} {
		p := boot(t, "a", "ab", 1)
		p.append("b", protocol.Append{Term: 1, Prev: 1, PrevTerm: 1, Entries: []protocol.Entry{change(2, 1, names)}})
		p.now = p.now.Add(2 * election)
		p.r.Tick(p.now)
		p.do()
		p.want(protocol.PreCandidate, 1)
		p.grant()
		p.want(protocol.Candidate, 2)
		p.grant()
		p.want(protocol.Leader, 2)
		p.taken("b", p.wantSent("b", 2, 1))
		p.wantCommit(3)
		p.want(protocol.Follower, 2)
	}
	p := boot(t, "c", "abC", 1) // it never had one
	p.append("b", protocol.Append{Term: 1, Prev: 1, PrevTerm: 1, Entries: []protocol.Entry{change(2, 1, "ab")}})
	p.now = p.now.Add(2 * election)
	p.r.Tick(p.now)
	p.want(protocol.Follower, 1)
}

// A new voter has not failed to answer yet: its leader stays.
func TestNewVoterCountsAsHeard(t *testing.T) {
	p := boot(t, "a", "a")
	p.lead()
	p.now = p.now.Add(time.Minute)
	p.r.Tick(p.now)
	p.do()
	if err := p.configure("ab"); err != nil {
		t.Fatal(err)
	}
	change := p.wantSent("b", 1, 1)
	p.after(election / 2)
	p.want(protocol.Leader, 1)
	p.refused("b", *change, 0)
	p.taken("b", p.wantSent("b", 0, 2))
	p.wantCommit(2)
	p.after(election)
	p.want(protocol.Leader, 1)
	p.after(election)
	p.want(protocol.Follower, 1)
}

// Who is out is sent nothing any more, and its answers do not count.
func TestRemovedPeer(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	p.all("b", "c")
	if err := p.configure("ab"); err != nil {
		t.Fatal(err)
	}
	p.wantNothing("c")
	p.r.Appended(p.now, "c", protocol.Append{Term: 1, Prev: 1, PrevTerm: 1, Entries: p.log.entries[1:]}, protocol.Reply{Term: 1, OK: true})
	p.wantCommit(1)
	p.taken("b", p.to("b"))
	p.wantCommit(2)
}

// A snapshot brings its configuration, and those behind it that the log keeps (paper 7).
func TestInstalled(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1)
	p.append("b", protocol.Append{Term: 1, Prev: 2, PrevTerm: 1, Entries: []protocol.Entry{{Index: 3, Term: 1}, change(4, 1, "abcd")}})
	if reply, ok := p.r.Offer(p.now, "b", 0); ok || reply.OK {
		t.Error("a snapshot of an earlier term is taken")
	}
	for _, tt := range []struct {
		index, term  uint64
		conf         string
		at           uint64
		last, commit uint64
	}{
		{3, 1, "abc", 4, 4, 3}, // the log goes on
		{9, 2, "abd", 9, 9, 9}, // the log begins anew
	} {
		if reply, ok := p.r.Offer(p.now, "b", 2); !ok || !reply.OK {
			t.Errorf("%+v", reply)
		}
		p.do()
		p.log.install(simSnapshot{tt.index, tt.term, protocol.ConfigurationAt{Configuration: members(tt.conf), Index: min(tt.index, tt.at)}}, false)
		p.r.Installed(p.log.snap.conf, p.log.confs(p.log.Last())[1:])
		p.do()
		p.wantCommit(tt.commit)
		if p.log.Last() != tt.last {
			t.Errorf("last is %d", p.log.Last())
		}
	}
	p.wantMembers("abd", 9)
	if got := p.append("b", protocol.Append{Term: 2, Prev: 9, PrevTerm: 2, Entries: entries(10, 2), Commit: 10}); !got.OK {
		t.Errorf("%+v", got)
	}
	p.wantCommit(10)
}

// A commit that is known survives a snapshot of less.
func TestInstalledBehindCommit(t *testing.T) {
	p := boot(t, "a", "abc", 1)
	p.append("b", protocol.Append{Term: 1, Prev: 1, PrevTerm: 1, Entries: []protocol.Entry{change(2, 1, "abcd"), {Index: 3, Term: 1}}, Commit: 3})
	p.log.install(simSnapshot{1, 1, p.log.snap.conf}, false)
	p.r.Installed(p.log.snap.conf, p.log.confs(p.log.Last())[1:])
	p.wantCommit(3)
	p.wantMembers("abcd", 2)
	if back := p.r.CommittedConfiguration(); !slices.Equal(back.Members, members("abcd").Members) {
		t.Errorf("it would go back to %v", back)
	}
}

// What Append writes is read the same; other bytes are refused or read, without panic.
func FuzzConfiguration(f *testing.F) {
	for _, names := range []string{"", "a", "aBc", "abcdefg"} {
		f.Add(members(names).Append(nil))
	}
	f.Add([]byte{2, 1, 1, 'a', 0, 1, 'a'})            // twice
	f.Add([]byte{1, 2, 1, 'a'})                       // no vote is 2
	f.Add([]byte{1, 1, 0})                            // no name
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f})       // too many
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0x7f, 0, 0}) // a name too long
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := protocol.ReadConfiguration(fulcrum.NewReader(b))
		if err != nil {
			return
		}
		again, err := protocol.ReadConfiguration(fulcrum.NewReader(c.Append(nil)))
		if err != nil || !slices.Equal(again.Members, c.Members) {
			t.Errorf("%v became %v, %v", c, again, err)
		}
		for _, m := range c.Members {
			if !c.Has(m.ID) || c.Voter(m.ID) != m.Voter || c.Without(m.ID).Has(m.ID) || c.With(protocol.Member{ID: m.ID, Voter: !m.Voter}).Voter(m.ID) == m.Voter {
				t.Errorf("%v of %v", m, c)
			}
		}
	})
}

func TestReadConfigurationRefuses(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, {1, 1}, {2, 1, 1, 'a', 0, 1, 'a'}, {1, 2, 1, 'a'}, {1, 1, 0}, {0x81, 8}, {1, 1, 5, 'a'}} {
		if c, err := protocol.ReadConfiguration(fulcrum.NewReader(b)); !errors.Is(err, fulcrum.ErrShort) {
			t.Errorf("%v is read as %v, %v", b, c, err)
		}
	}
}
