package mutant

import "time"

// List returns every mutant there is.
func List() []Mutant {
	var all []Mutant
	for _, part := range [][]Mutant{durability(), raft(), quorum(), leaderFollower(), coordinator(), switches(), harness()} {
		all = append(all, part...)
	}
	return all
}

func durability() []Mutant {
	return []Mutant{
		{Name: "no-fsync", Breaks: "a log says that records are on disk before they are synced",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "kill-all",
			Test: "node/storage TestCrashLosesOnlyWhatWasNotSynced"},
		{Name: "torn-tail-drops-batch", Breaks: "a log that is opened drops its last whole records, as if they were torn",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "kill-all",
			Test: "node/storage TestTornTail"},
		// A run would have to hit, with its few flips, a live value and nothing else that is checked.
		{Name: "checksum-ignored", Breaks: "a value that the disk has damaged is served",
			Test: "node/storage TestDamagedValueIsRefused"},
	}
}

func raft() []Mutant {
	return []Mutant{
		{Name: "raft-ack-before-quorum", Breaks: "an append counts as stored by a follower that has not answered",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "partition-leader"},
		{Name: "no-confirm", Breaks: "a linearizable read is answered by whoever thinks that it leads",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "partition-leader,delay",
			Test: "replication/raft TestNewLeaderPassesABarrierFirst"},
		{Name: "verify-leader-only", Breaks: "a linearizable read rests on hashicorp/raft's VerifyLeader alone",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "partition-leader,jitter",
			Test: "replication/raft TestDeposedLeaderWithAnAnswerInFlight"},
		// Only a crash within the microseconds of a sync would show it.
		{Name: "copy-counted-early", Breaks: "a replica answers for an entry that its own disk does not hold yet",
			Test: "replication/raft TestMajorityOfDisksDecides"},
		// A shard has replicas without a vote only while it moves, which no nemesis brings about.
		{Name: "non-voter-counted", Breaks: "the round that confirms a leader counts replicas that have no vote",
			Test: "replication/raft TestNonVoterDoesNotConfirm"},
		// The leader, its follower and the client must be together on the small side, of five, for a moment.
		{Name: "follower-read-no-confirm", Breaks: "a leader gives a follower a read index without asking whether it still leads",
			Test: "replication/raft TestFollowerOfADeposedLeader"},
		// The old leader must not hear of its heir, which the nemesis has no way to bring about.
		{Name: "lease-past-transfer", Breaks: "a leader that hands over lets its voters off, and goes on answering under its lease",
			Test: "replication/raft TestTransferGivesTheLeaseUp"},
		{Name: "bounded-no-proof", Breaks: "a replica answers a bounded read on a proof of any age",
			Mode: "raft", Write: "quorum", Read: "bounded:1s", Workload: "staleness", Nemesis: "partition-one",
			Test: "replication/raft TestBoundedReadsAreProvedOrRefused"},
		{Name: "no-index-wait", Breaks: "a follower answers a session before it has reached the session's token",
			Mode: "raft", Write: "quorum", Read: "session", Workload: "session", Nemesis: "delay",
			Test: "replication/raft TestSessionWaitsOrGoesToTheLeader"},
		{Name: "vote-not-persisted", Breaks: "a replica forgets whom it voted for, and votes again in the same term",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "pause-leader,jitter", Shards: 8,
			Test: "replication/raft TestAVoteHoldsThroughARestart"},
		{Name: "watch-skips-gap", Breaks: "a watch whose history is gone goes on with what there is, and tells nobody",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "watch", Nemesis: "kill-all",
			Test: "replication/raft TestHistoryThatIsGoneIsTold"},
		{Name: "watch-replays", Breaks: "a watch that goes on behind a change tells it once more",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "watch", Nemesis: "kill-one",
			Test: "replication/raft TestWatchThroughFaults"},
		{Name: "expiry-by-wall-clock", Breaks: "each replica decides by its own clock what has expired",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "ttl", Nemesis: "clock-bump",
			Test: "replication/raft TestAClockThatJumpsHidesNothing"},
		// Three leaders must change places between single messages: the paper's figure 8.
		{Name: "commit-by-counting", Breaks: "a leader commits an entry of an older term because a majority holds it",
			Test: "replication/raft/protocol TestFigure8"},
		{Name: "id-not-checked", Breaks: "a request that comes again under its id is applied again",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "once", Nemesis: "partition-leader,jitter",
			Test: "replication/raft TestRetryThroughTheNextLeaderAppliesOnce"},
		{Name: "id-forgotten-by-snapshot", Breaks: "a replica that a snapshot brought up knows no request id",
			Test: "replication/raft TestIDsSurviveRestartsAndSnapshots"},
		{Name: "bounded-proof-late", Breaks: "a proof of how fresh a replica is counts from the leader's answer, not from the question",
			Mode: "raft", Write: "quorum", Read: "bounded:200ms", Workload: "staleness", Nemesis: "delay"},
		{Name: "late-joins-round", Breaks: "a read that comes while a round is under way is answered with that round",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "jitter",
			Test: "replication/raft TestQuestionBeginsAfterTheRead"},
		{Name: "scan-at-one", Breaks: "a scan at any level shows what one replica has",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "set", Nemesis: "partition-one",
			Test: "replication/raft TestKeepsTheContract"},
		{Name: "write-token-low", Breaks: "a session's token is one entry short of what the session wrote",
			Mode: "raft", Write: "quorum", Read: "session", Workload: "session", Nemesis: "delay",
			Test: "replication/raft TestSessionWaitsOrGoesToTheLeader"},
		// A write must be applied between two statements, and the session go on at a replica that lacks just that one.
		{Name: "position-before-read", Breaks: "a read's position is taken before it looks, so that it may show more",
			Test: "replication/raft TestAPositionCoversWhatWasShown"},
		// The leader must stand still between two statements, for longer than an election takes.
		{Name: "lease-not-looked-at-again", Breaks: "a leader answers under a lease that has run out while it read",
			Test: "replication/raft TestALeaseIsLookedAtAfterTheRead"},
		// Elections take longer than leases are wrong by.
		{Name: "lease-from-answers", Breaks: "a lease counts from when the voters' promises arrive, not from before they were given",
			Test: "replication/raft TestALeaseCountsFromTheQuestion"},
		{Name: "id-forgotten-early", Breaks: "request ids are forgotten after three seconds",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "once", Nemesis: "partition-leader,jitter",
			Test: "replication/raft TestIDsAreKeptForAWhile"},
		{Name: "id-not-stored", Breaks: "request ids are kept in memory only",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "once", Nemesis: "kill-one,jitter",
			Test: "replication/raft TestIDsSurviveRestartsAndSnapshots"},
		{Name: "batch-unseen", Breaks: "a request does not see what those that are applied in one step with it have left",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "txn", Nemesis: "none",
			Test: "replication/raft TestReplicasAgreeHoweverEntriesArrive"},
		{Name: "cas-refused-in-company", Breaks: "a compare-and-set that is applied in one step with others is refused, whatever stands there",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "none"},
		{Name: "stamp-not-raised", Breaks: "a leader whose clock is behind makes versions that are older than those before them",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "transfer,clock-bump",
			Test: "replication/raft TestReplicasAgreeHoweverEntriesArrive"},
		// No workload writes megabytes in one request.
		{Name: "bounds-of-proposer", Breaks: "only the replica that proposed it refuses what is over a bound: the others do it",
			Test: "replication/raft TestARequestOverABoundInAnOldLogIsDone"},
		{Name: "expiry-unchecked", Breaks: "a key that is listed as due is removed, though it was written again",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "ttl", Nemesis: "jitter",
			Test: "replication/raft TestOnlyWhatIsDueExpires"},
		{Name: "expiry-untold", Breaks: "watches are not told what expires",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "watch", Nemesis: "none",
			Test: "replication/raft TestWatchersAreToldWhatExpired"},
		{Name: "expiry-told-twice", Breaks: "watches are told twice what expires",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "watch", Nemesis: "none",
			Test: "replication/raft TestWatchersAreToldWhatExpired"},
		{Name: "watch-begins-stale", Breaks: "a watch begins where its replica is, though that may be behind what was acknowledged",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "watch", Nemesis: "partition-leader"},
		{Name: "snapshot-index-low", Breaks: "a snapshot says that it is older than what it holds",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "append", Nemesis: "disk-wipe",
			Test: "replication/raft TestReplicaThatIsNotBasedCatchesUpBySnapshot"},
		{Name: "lost-lead-as-refusal", Breaks: "entries that a deposed leader has proposed are reported as not done",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "append", Nemesis: "partition-leader,jitter",
			Test: "replication/raft TestRetryThroughTheNextLeaderAppliesOnce"},
		{Name: "txn-compare-ignored", Breaks: "a transaction's Then runs whatever its conditions say",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "txn", Nemesis: "none",
			Test: "replication/raft TestTransactions"},
		// The promises hold; what is lost is time.
		{Name: "stalled-leader-stays", Breaks: "a leader whose disk stands still goes on sending heartbeats (hashicorp/raft#503, #614, #666)",
			Test: "replication/raft TestStalledDiskMovesTheLeader"},
	}
}

func quorum() []Mutant {
	return []Mutant{
		{Name: "quorum-w-minus-one", Breaks: "a write is acknowledged by one replica fewer than its level says",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "partition-one",
			Test: "replication/quorum TestPartition"},
		{Name: "read-r-minus-one", Breaks: "a read asks one replica fewer than its level says",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "partition-one",
			Test: "replication/quorum TestPartition"},
		{Name: "no-write-back", Breaks: "a strong read does not bring up to date those that answered with less",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "loss",
			Test: "replication/quorum TestStrongReadsBlockOnRepair"},
		{Name: "wall-clock", Breaks: "versions are the plain time of the node, not raised above what it has seen",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "clock-bump",
			Test: "replication/quorum TestClockBehindLosesAtQuorumButNotAtLinearizable"},
		{Name: "lww-oldest", Breaks: "the first write of a key stands for ever",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "none",
			Test: "replication/quorum TestGroup"},
		{Name: "tombstones-early", Breaks: "tombstones are purged before their grace time, and though a replica may lack them",
			Mode: "quorum", Write: "quorum", Read: "quorum", Workload: "delete", Nemesis: "partition-one", Busy: 5 * time.Second,
			Test: "replication/quorum TestTombstonesGoOnceEveryReplicaHasThem"},
	}
}

func leaderFollower() []Mutant {
	return []Mutant{
		{Name: "lf-ack-before-quorum", Breaks: "the leader acknowledges a quorum write with its own log alone",
			Mode: "leader-follower", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "partition-leader",
			Test: "replication/leaderfollower TestFailoverKeepsQuorumAndCountsWhatOneLost"},
		{Name: "lease-ignored", Breaks: "a leader goes on after its lease has run out",
			Mode: "leader-follower", Write: "quorum", Read: "lease", Workload: "register", Nemesis: "partition-leader",
			Test: "replication/leaderfollower TestALeaderWithoutLeaseNeitherAcknowledgesNorAnswers"},
		{Name: "stale-leader-not-fenced", Breaks: "a leader is replaced before its lease has run out",
			Mode: "leader-follower", Write: "quorum", Read: "lease", Workload: "register", Nemesis: "partition-leader",
			Test: "node TestWhoCountsAsLive"},
		{Name: "promote-shortest", Breaks: "a promotion picks the replica with the shortest log",
			Mode: "leader-follower", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "partition-laggard",
			Test: "node TestTheLongestLogIsPromoted"},
	}
}

func coordinator() []Mutant {
	return []Mutant{
		{Name: "retry-twice", Breaks: "a write with an unknown outcome is sent again",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "append", Nemesis: "kill-minority,jitter"},
		{Name: "timeout-as-failure", Breaks: "an unknown outcome is reported as definitely not done",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "append", Nemesis: "partition-leader,delay"},
		{Name: "token-ignored", Breaks: "a session read does not look at its token",
			Mode: "raft", Write: "quorum", Read: "session", Workload: "session", Nemesis: "delay"},
		// Level any promises nothing that a run could hold against it.
		{Name: "hint-dropped", Breaks: "a write at level any is acknowledged as a hint that nobody keeps",
			Test: "jepsen-lite/sim TestAHintOfAnyArrivesInTheEnd"},
		{Name: "ttl-early", Breaks: "values expire after half their time",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "ttl", Nemesis: "none"},
		{Name: "expiry-ignored", Breaks: "values never expire",
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "ttl", Nemesis: "none"},
	}
}

func switches() []Mutant {
	return []Mutant{
		{Name: "switch-no-fence", Breaks: "a Raft group goes on accepting behind the fence of a switch",
			Mode: "raft", Write: "linearizable", Read: "linearizable", Workload: "switch", Nemesis: "switch,jitter",
			Test: "replication/raft TestFence"},
		{Name: "switch-no-merge", Breaks: "replicas leave quorum mode without merging what they hold",
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "switch", Nemesis: "switch-behind",
			Test: "replication/quorum TestFencedReplicasSettleOnTheSameState"},
		{Name: "old-epoch-accepted", Breaks: "a replica answers messages of another epoch",
			Mode: "leader-follower", Write: "linearizable", Read: "linearizable", Workload: "switch", Nemesis: "switch-behind"},
		{Name: "unsettled-replica-based", Breaks: "a replica that did not settle enters the next epoch with what it has",
			Mode: "raft", Write: "linearizable", Read: "linearizable", Workload: "switch", Nemesis: "switch-behind,partition-leader",
			Test: "jepsen-lite/sim TestASwitchWaitsForNobodyAndLosesNothing"},
	}
}

func harness() []Mutant {
	return []Mutant{
		{Name: "nemesis-noop", Breaks: "the nemesis says what it would do and does nothing", Harness: true,
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "partition-one"},
		{Name: "outcomes-swapped", Breaks: "the recorder stores unknown outcomes as failures", Harness: true,
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "append", Nemesis: "partition-leader,delay"},
		{Name: "unknown-as-ok", Breaks: "the recorder stores unknown outcomes as done", Harness: true,
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "partition-leader,delay"},
		{Name: "recorder-drops-ops", Breaks: "the recorder forgets some operations that were acknowledged", Harness: true,
			Mode: "quorum", Write: "linearizable", Read: "linearizable", Workload: "register", Nemesis: "none"},
		{Name: "history-truncated", Breaks: "a part in the middle of the history is missing", Harness: true,
			Mode: "raft", Write: "quorum", Read: "linearizable", Workload: "register", Nemesis: "none"},
		{Name: "final-read-skipped", Breaks: "the final reads are left out", Harness: true,
			Mode: "leader-follower", Write: "quorum", Read: "linearizable", Workload: "durability", Nemesis: "none"},
	}
}
