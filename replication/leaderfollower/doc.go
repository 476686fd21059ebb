// Package leaderfollower keeps the replication contract with one leader that
// orders every write and followers that copy its log. How many copies a write
// waits for is the request's choice, from the leader's own log (one) to every
// replica in sync (all).
//
// # Words
//
// A *term* is one leadership. The catalog assigns (term, leader); terms rise. On
// the wire and in the log a term carries in its low 16 bits the *life* of the
// leader within it: a leader that restarts goes on in the next life, as in a new
// term, so that no two records ever share (term, index) and differ, even where
// the disk was allowed to lose the last records. The *tail* of a log is what is
// in it and not known to be committed. The *overlay* is what the leader's tail
// leaves at each key.
//
// # Invariants
//
//  1. A replica accepts nothing of a term below the one it has promised, and the
//     promise is durable before it is given or acted upon.
//  2. A term (with its life) has one leader, because the catalog has assigned it
//     and only that node counts its lives. The leader never removes from its log.
//  3. Records with the same (term, index) are the same, and so are all before
//     them: a follower appends only behind a record that matches (prevIndex,
//     prevTerm), and truncates only where a record of a later term contradicts.
//  4. A record is committed once a majority of Env.Replicas has it durably and a
//     record of the leader's own term stands at or above it (Ongaro 2014, 5.4.2).
//     Only committed records are ever applied to a State or leave in a snapshot.
//  5. Promotion: a controller that wants term t lets replicas Promise t until a
//     majority of Env.Replicas has, picks the longest log by (LastTerm,
//     LastIndex) among those, and only then has the catalog assign t to it. Before
//     that, the former leader has promised t too, or its liveness lease has
//     ended. The first leadership of an epoch needs no promises: it goes to any
//     based replica.
//
// # Why a committed write survives
//
// Let r be committed in term u, and t > u the first later term whose leader lacks
// r. A majority held r durably, and a majority promised t: some replica did both.
// It accepted r before it promised t, by 1. It still had r when it promised, since
// only a leader of a term between u and t could have made it truncate r, and those
// all have r, by choice of t. So its last record has a term of at least u. The
// chosen log was at least as long by (LastTerm, LastIndex). If both end in the same
// term, 3 and the length give it r; if its last term is later than u, the leader of
// that term is before t, had r, and passed it on by 3. Either way it has r.
//
// # Why a linearizable read is current
//
// The leader answers while its lease holds, checked after it has read and after it
// has made sure that it still leads. By 5 nobody else leads then, so no write that
// it has not ordered was acknowledged. It waits until everything that it had
// ordered when the read arrived is committed, so an answer is never taken back.
//
// # What may be lost
//
// A write acknowledged with fewer copies than a majority (one; two or three of
// five) is lost when a replica without it is promoted. The leader that had
// acknowledged it finds it in its tail when it comes back, writes it to a file,
// counts it, and only then truncates.
//
// Start reading at Group.Write, then ship.go, follower.go and promote.go.
package leaderfollower
