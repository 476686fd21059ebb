package consistency

// The cells of the table, one function a mode and access. A cell with a Checker
// is offered.

func raftWrite(k Kind) Promise {
	switch k {
	case Any, One, LocalOne, QuorumOf, Linearizable:
		p := Promise{
			Guarantee:  "The write is in one order with all others and survives the loss of any minority of replicas.",
			Given:      QuorumOf,
			Asked:      "leader, then all voters",
			Needed:     "majority of voters",
			RoundTrips: "1",
			Minority:   "refused",
			Checker:    CheckLinearizable,
		}
		if k != QuorumOf {
			p.Guarantee = "Kept by the same majority as quorum, which is more than " + k.String() + " asks: Raft has no cheaper write."
			if k == Linearizable {
				p.Guarantee, p.Given = "Another name of quorum here: every Raft write is linearizable.", k
			}
		}
		return p
	case Two, Three, All:
		return refused("a Raft write waits for a majority, which may be fewer replicas than that")
	case LocalQuorum, EachQuorum:
		return refused("a Raft write waits for a majority of voters wherever they are; " + noZones)
	}
	return refused(readOnly)
}

func raftRead(k Kind) Promise {
	switch k {
	case Linearizable:
		return Promise{
			Guarantee:  "The answer holds every write acknowledged before the read began, whichever replica gives it.",
			Asked:      "any replica; it asks the leader, which asks all voters, unless the two are a majority (one question and one round for all reads that wait)",
			Needed:     "majority of voters, then 1 replica that has applied what the leader had committed",
			RoundTrips: "1, and 1 more to the leader from another replica of more than three",
			Minority:   "refused",
			Checker:    CheckLinearizable,
		}
	case Lease:
		return Promise{
			Guarantee:  "As linearizable, as long as clocks run at about the same speed: voters have promised to elect nobody else for a moment. The receipt states the bound, or none where the read took a round.",
			Asked:      "leader; all voters when the lease has run out",
			Needed:     "leader, holding a lease; else majority of voters",
			RoundTrips: "0, or 1 a lease, and 1 more to the leader from another replica",
			Minority:   "answered by the leader until its lease ends, well before another is elected, then refused",
			Checker:    CheckLinearizable,
		}
	case Bounded:
		return Promise{
			Guarantee:  "The answer is at the most that stale: the replica has proved it by its last question to the leader, on its own clock alone, or asks anew. The receipt says how stale it may be.",
			Asked:      "nearest replica, then the leader and all voters",
			Needed:     "1 replica whose lag is proved, else majority of voters",
			RoundTrips: "0, or as linearizable",
			Minority:   "answered until the bound is over, then refused",
			Checker:    CheckBounded,
		}
	case Session:
		return sessionRead("log index")
	case Prefix:
		return prefixRead()
	case One, LocalOne:
		return staleRead()
	case Two, Three, QuorumOf, All, LocalQuorum, EachQuorum:
		return refused("Raft reads do not count replicas: linearizable asks a majority, one asks none")
	}
	return refused("a level for writes only")
}

func quorumWrite(k Kind) Promise {
	p := Promise{Asked: "all replicas", RoundTrips: "1", Minority: "accepted where that many replicas are in reach, else refused"}
	switch k {
	case Any:
		p.Guarantee = "The write is stored somewhere, if only as a hint for replicas that are away; reads may not see it until it is delivered."
		p.Needed, p.Minority, p.Checker = "1 replica or 1 hint", "accepted", CheckEventual
	case One:
		p.Guarantee = "One replica has the write; it spreads to the others later and is lost if that replica is lost before."
		p.Needed, p.Checker = "1 replica", CheckEventual
	case LocalOne:
		p.Guarantee = "One replica of the coordinator's zone has the write; it spreads to the others later."
		p.Needed, p.Checker = "1 replica of the coordinator's zone", CheckEventual
	case Two:
		p.Guarantee = "Two replicas have the write."
		p.Needed, p.Checker = "2 replicas", CheckEventual
	case Three:
		p.Guarantee = "Three replicas have the write."
		p.Needed, p.Checker = "3 replicas", CheckEventual
	case LocalQuorum:
		p.Guarantee = "A majority of the replicas of the coordinator's zone have the write; other zones get it later."
		p.Needed, p.Checker = "majority of the coordinator's zone", CheckEventual
	case QuorumOf:
		p.Guarantee = "A majority has the write: it survives the loss of any minority, and every later quorum read meets it."
		p.Needed, p.Minority, p.Checker = "majority of replicas", "refused", CheckDurable
	case EachQuorum:
		p.Guarantee = "A majority of the replicas of every zone has the write."
		p.Needed, p.Minority, p.Checker = "majority of every zone", "refused", CheckDurable
	case All:
		p.Guarantee = "Every replica has the write: any read meets it. One replica away is enough to refuse it."
		p.Needed, p.Minority, p.Checker = "all replicas", "refused, on both sides", CheckDurable
	case Linearizable:
		p.Guarantee = "The write takes effect at one moment between request and answer, for reads that are linearizable too (two-phase ABD)."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "majority of replicas, twice", "2", "refused", CheckLinearizable
	default:
		return refused(readOnly)
	}
	return p
}

func quorumRead(k Kind) Promise {
	p := Promise{Asked: "all replicas", RoundTrips: "1", Minority: "answered where that many replicas are in reach, else refused"}
	switch k {
	case One:
		p.Guarantee = "What the nearest replica has: it may be stale, without bound while the network is cut."
		p.Asked, p.Needed, p.RoundTrips, p.Minority, p.Checker = "nearest replica", "1 replica", "0 or 1", "answered", CheckEventual
	case LocalOne:
		p.Guarantee = "What one replica of the coordinator's zone has: it may be stale."
		p.Asked, p.Needed, p.RoundTrips, p.Checker = "replicas of the coordinator's zone", "1 replica of the coordinator's zone", "0 or 1", CheckEventual
	case Two:
		p.Guarantee = "The newest of what two replicas have."
		p.Needed, p.Checker = "2 replicas", CheckEventual
	case Three:
		p.Guarantee = "The newest of what three replicas have."
		p.Needed, p.Checker = "3 replicas", CheckEventual
	case LocalQuorum:
		p.Guarantee = "The newest of what a majority of the coordinator's zone has; writes of other zones may be missing."
		p.Asked, p.Needed, p.Checker = "replicas of the coordinator's zone", "majority of the coordinator's zone", CheckEventual
	case QuorumOf:
		p.Guarantee = "Every write acknowledged at quorum before the read is seen, and later quorum reads never go back behind the answer."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "majority of replicas", "1, and 1 more to repair", "refused", CheckSession
	case EachQuorum:
		p.Guarantee = "The newest of what a majority of every zone has: every write acknowledged at quorum is seen."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "majority of every zone", "1, and 1 more to repair", "refused", CheckSession
	case All:
		p.Guarantee = "The newest of what any replica has: every acknowledged write but those at any is seen."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "all replicas", "1, and 1 more to repair", "refused, on both sides", CheckSession
	case Session:
		p.Guarantee = "This client sees what it wrote at quorum, and its reads never go back: the quorums overlap."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "majority of replicas", "1, and 1 more to repair", "refused", CheckSession
	case Linearizable:
		p.Guarantee = "The answer holds every write acknowledged before the read began, and is itself on a majority before it is given (ABD; linearizable writes)."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "majority of replicas, twice if they differ", "1, and 1 more to write back", "refused", CheckLinearizable
	case Lease:
		return refused("no leader, so no lease")
	case Bounded:
		return refused("no replica can prove how far behind it is without a leader")
	case Prefix:
		return refused("writes have no common order, so there is no prefix of it")
	default:
		return refused("a hint cannot be read")
	}
	return p
}

func leaderWrite(k Kind) Promise {
	p := Promise{Asked: "leader, then all followers"}
	onLease := "accepted on the leader's side until its lease ends, then refused"
	switch k {
	case One:
		p.Guarantee = "The leader has the write; followers get it later, and a failover before that loses it (counted and kept in a file)."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "leader", "0", onLease, CheckPrefix
	case Two:
		p.Guarantee = "The leader and one follower have the write; it is lost only with both."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "leader and 1 follower", "1", onLease+" (where a follower is on that side)", CheckPrefix
	case QuorumOf, Linearizable:
		p.Guarantee = "A majority has the write: a failover keeps it, for promotion takes the longest log of a majority."
		if k == Linearizable {
			p.Guarantee = "Another name of quorum here: the leader orders the write and a majority has it."
		}
		p.Given, p.Needed, p.RoundTrips, p.Minority, p.Checker = QuorumOf, "majority of replicas", "1", "refused", CheckLinearizable
	case All:
		p.Guarantee = "Every replica that is in sync has the write."
		p.Needed, p.RoundTrips, p.Minority, p.Checker = "all in-sync replicas", "1", "refused until those away are out of the in-sync set", CheckPrefix
	case Any:
		return refused("the leader orders every write, and a hint has no place in its order")
	case Three:
		return refused("leader-follower counts one (leader), two, quorum and all (in-sync)")
	case LocalOne, LocalQuorum, EachQuorum:
		return refused("writes go to the leader wherever it is; " + noZones)
	default:
		return refused(readOnly)
	}
	return p
}

func leaderRead(k Kind) Promise {
	switch k {
	case Linearizable:
		return Promise{
			Guarantee:  "The answer holds every write acknowledged before the read began (writes at one or two excepted, when a failover lost them).",
			Asked:      "leader",
			Needed:     "leader, holding a lease",
			RoundTrips: "1 to the leader, none if asked there",
			Minority:   "answered on the leader's side until its lease ends, unless writes there wait for a majority; then refused",
			Checker:    CheckLinearizable,
		}
	case Lease:
		return leaseRead()
	case Bounded:
		return boundedRead()
	case Session:
		return sessionRead("sequence number")
	case Prefix:
		return prefixRead()
	case One, LocalOne:
		return staleRead()
	case Two, Three, QuorumOf, All, LocalQuorum, EachQuorum:
		return refused("leader-follower reads do not count replicas: linearizable asks the leader, one asks any replica")
	}
	return refused("a level for writes only")
}

func leaseRead() Promise {
	return Promise{
		Guarantee:  "As linearizable, as long as clocks run at about the same speed; the receipt states the bound.",
		Asked:      "leader",
		Needed:     "leader, holding a lease",
		RoundTrips: "1 to the leader, none if asked there",
		Minority:   "answered on the leader's side until its lease ends, unless writes there wait for a majority; then refused",
		Checker:    CheckLinearizable,
	}
}

func boundedRead() Promise {
	return Promise{
		Guarantee:  "The answer is at the most that stale, and the replica can prove it.",
		Asked:      "nearest replica, then the leader",
		Needed:     "1 replica whose lag is proved",
		RoundTrips: "0, or 1 to the leader",
		Minority:   "answered until the bound is over, then refused",
		Checker:    CheckBounded,
	}
}

func sessionRead(position string) Promise {
	return Promise{
		Guarantee:  "This client sees what it wrote, and its reads never go back; others' writes may be missing.",
		Asked:      "nearest replica",
		Needed:     "1 replica at or above the token's " + position,
		RoundTrips: "0, or 1 to another replica",
		Minority:   "answered where a replica has reached the token, else refused",
		Checker:    CheckSession,
	}
}

func prefixRead() Promise {
	return Promise{
		Guarantee:  "Some state that the leader once had, without gaps; it may be stale.",
		Asked:      "nearest replica",
		Needed:     "1 replica",
		RoundTrips: "0",
		Minority:   "answered",
		Checker:    CheckPrefix,
	}
}

func staleRead() Promise {
	p := prefixRead()
	p.Guarantee = "What this replica has: it may be stale, without bound while the network is cut."
	p.Checker = CheckEventual
	return p
}
