package tokensource

import (
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// entry is the state of one key. This file has its fields and every transition
// of them: whoever wants to know when a field changes finds it here.
type entry struct {
	key Key

	// cur is what a request may take without asking: tok, or nil while tok
	// must not be handed out before a renewal has been tried.
	cur  atomic.Pointer[Token]
	used atomic.Int64 // Unix nanoseconds, to the second

	mu      sync.Mutex  // never held across I/O or a callback
	tok     *Token      // the newest token, be it expired or refused
	flight  *renewal    // the renewal that runs, if any
	passing *passing    // nil: all of it is zero. See condition and setCondition
	renewed time.Time   // when a renewal that the API asked for last brought a token
	code    *codeMemory // nil: none
	timer   *time.Timer // nil: nothing is to be done at a time
	size    int64       // in memory, see table.weigh
	// lastLease is the sum of the last lease's name that this entry took.
	lastLease uint64
	lastSent  bool // and something was sent under it
	evicted   bool
	unread    bool // the store could not be read at the start
	lost      bool // the refresh token is refused, and only a person can bring the next
}

// passing is what few entries have at a time: something is wrong, or is still to
// be written. The others, of a hundred thousand, have no room for it.
type passing struct {
	unsaved  unsaved
	failure  failure // of the last renewal; zero after one that worked
	refresh  refreshState
	setAside string // sum of the damaged record that was set aside
}

// condition returns the entry's passing state. The caller holds e.mu.
func (e *entry) condition() passing {
	if e.passing == nil {
		return passing{}
	}
	return *e.passing
}

// setCondition is how it changes. The caller holds e.mu.
func (e *entry) setCondition(p passing) {
	switch {
	case p.unsaved == unsaved{} && p.failure.err == nil && p.refresh == refreshState{} && p.setAside == "":
		e.passing = nil
	case e.passing == nil:
		kept := p
		e.passing = &kept
	default:
		*e.passing = p
	}
}

// unsaved returns whether something is to be written. The caller holds e.mu.
func (e *entry) unsaved() unsaved {
	if e.passing == nil {
		return unsaved{}
	}
	return e.passing.unsaved
}

// setUnsaved changes that. The caller holds e.mu.
func (e *entry) setUnsaved(u unsaved) {
	p := e.condition()
	p.unsaved = u
	e.setCondition(p)
}

// failure returns how the last renewal failed; the zero failure: it did not. The
// caller holds e.mu.
func (e *entry) failure() failure {
	if e.passing == nil {
		return failure{}
	}
	return e.passing.failure
}

// refreshState is what is known of a refresh token that failed, of a grant that
// needs nobody: it stands in for the refresh meanwhile.
type refreshState struct {
	sum   uint64 // of the refresh token that is meant
	dead  bool   // it is not sent again
	fails int    // how often the endpoint was out of order for it
	after time.Time
}

// maxRefreshFails is how often a refresh may come to nothing, for whatever
// reason, until its refresh token is given up for the grant.
const maxRefreshFails = 3

// unsaved is the state of a token that the store has not taken yet, or that is
// to be looked after.
type unsaved struct {
	is bool
	// unsettled: the store could not be read before, so what generation the token
	// is of is known only when it is written.
	unsettled bool
	copy      bool      // another store has it, which was this one's before
	check     bool      // it was written: is it still there?
	tries     int       // that failed
	next      time.Time // when to try again
}

// due reports whether the store is to be called for the token.
func (u unsaved) due() bool { return u.is || u.check }

// codeMemory remembers the last authorization code by its hash, so that a
// code that is handed over twice is sent once.
type codeMemory struct {
	sum [sha256.Size]byte
	err error
}

// begin makes r the entry's renewal. The caller holds e.mu.
func (e *entry) begin(r *renewal) { e.flight = r }

// withhold keeps requests from taking the token that the API refused while its
// successor is on the way. The caller holds e.mu.
func (e *entry) withhold() { e.cur.Store(nil) }

// finish takes over how the entry's renewal ended, and hands its token to
// requests. It returns the error that waiters get, and whether it is new that
// the refresh token is lost. The caller holds e.mu.
func (e *entry) finish(r *renewal, t *Token, err error, now time.Time) (newlyLost bool, _ error) {
	if err == nil && r.forced != nil && t.AccessToken() == r.forced.AccessToken() {
		err = ErrSameToken
	}
	before, p := e.tok, e.condition()
	if t != nil {
		if r.via == viaStore && t != before {
			p.unsaved = unsaved{} // what was not stored is past
		}
		t.sameAs(before)
		e.tok = t
		// What the API refused does not serve on, and what was there before a code may
		// be another account's.
		t.follow(before, r.forced == nil && r.why != ReasonCode, now)
	}
	worked := p.failure.fault == FaultEndpoint && r.s.gate.workedSince(p.failure.at)
	switch {
	case r.why == reasonResume:
		e.unread = ofStore(err)
		switch {
		case err == nil && (newer(t, before) || p.failure.fault == FaultRecord): // somebody has put it right
			p.failure, p.refresh = failure{}, refreshState{}
		case err != nil && !e.unread:
			p.failure = remember(p.failure, err, now, worked, random())
		}
	case err == nil && r.aside:
	case err == nil:
		p.failure = failure{}
		if r.via != viaGrant { // else the refresh token's state is still of use
			p.refresh = refreshState{}
		}
		if r.forced != nil && r.via != viaStore {
			e.renewed = now
		}
	case r.why == reasonWrite:
		p.unsaved.tries++
		p.unsaved.next = now.Add(writeAgainAfter(e.tok, p.unsaved, random()))
	case r.why == ReasonCode:
		// A code that fails says nothing of the token that is there, or of the
		// next renewal.
	case !r.called && p.failure.err != nil && FaultOf(err) == p.failure.fault:
		// It was not its turn: nothing new is known.
		p.failure.until = now.Add(lookAfter(err))
	default:
		p.failure = remember(p.failure, err, now, worked, random())
		if p.failure.fault == FaultEndpoint && RetryAfter(p.failure.err) == 0 {
			p.failure.hurryAt = hurry(now, r.s.gate.wakes(), e.tok)
		}
	}
	e.setCondition(p)
	e.flight = nil
	if e.tok != nil && !p.unsaved.due() {
		e.tok.refresh.forget() // no renewal runs that might be about to send it
	}
	e.cur.Store(e.tok)
	lost := errors.Is(err, errLost) || (e.lost && (err != nil || t == nil)) ||
		(t != nil && t.orphan.Load() && r.s.grant.Interactive)
	newlyLost, e.lost = lost && !e.lost, lost
	return newlyLost, err
}

// supersede takes over a token of the renewal that goes on: its refresh token is
// the one that is good.
func (e *entry) supersede(t *Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.replace(t)
}

// replace puts another in the token's place, which requests may take if they
// might take that. The caller holds e.mu.
func (e *entry) replace(t *Token) {
	if e.tok = t; e.cur.Load() != nil {
		e.cur.Store(t)
	}
}

// reconsider has a refusal that was remembered looked at again, unless only a
// person can put it right. It reports whether there was one.
func (e *entry) reconsider() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.condition()
	if p.failure.err == nil || p.failure.fault == FaultConsent {
		return false
	}
	p.failure.until, p.failure.callAt = time.Time{}, time.Time{}
	p.refresh.after = time.Time{}
	e.setCondition(p)
	return true
}

// forgive takes back what is remembered against the refresh token, and reports
// whether there was something.
func (e *entry) forgive() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.condition()
	had := e.lost || p.failure.fault == FaultConsent
	if e.tok != nil && e.tok.orphan.Swap(false) {
		had = true
	}
	p.refresh, e.lost = refreshState{}, false
	if p.failure.fault == FaultConsent {
		p.failure = failure{}
	}
	e.setCondition(p)
	return had
}

// obtained notes whether the store has taken a new token.
func (e *entry) obtained(u unsaved) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setUnsaved(u)
}

// written notes that the token is stored, if it is still the one.
func (e *entry) written(t *Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tok == t {
		e.setUnsaved(unsaved{})
	}
}

// copyLater has the token written to another store at a time, and reports
// whether there is one to copy. The caller holds e.mu.
func (e *entry) copyLater(at time.Time) bool {
	if e.tok == nil || e.unsaved().is {
		return false
	}
	e.setUnsaved(unsaved{is: true, copy: true, next: at})
	return true
}

// refreshRefused remembers a refresh token that is not sent again.
func (e *entry) refreshRefused(sum uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.condition()
	p.refresh = refreshState{sum: sum, dead: true}
	e.setCondition(p)
}

// refreshFailed remembers that a refresh came to nothing, and that the grant
// stands in for it. after: not before then is the refresh token sent again.
func (e *entry) refreshFailed(sum uint64, after time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.condition()
	if p.refresh.sum != sum {
		p.refresh = refreshState{sum: sum}
	}
	p.refresh.after = after
	if p.refresh.fails++; p.refresh.fails >= maxRefreshFails {
		p.refresh.dead = true
	}
	e.setCondition(p)
}

// mayRefresh reports whether a refresh token may be sent now, and whether it is
// worth keeping.
func (e *entry) mayRefresh(sum uint64, now time.Time) (may, keep bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.condition().refresh
	if was.sum != sum {
		return true, true
	}
	return !was.dead && !now.Before(was.after), !was.dead
}

// codeSent remembers what became of an authorization code.
func (e *entry) codeSent(c codeMemory) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.code = &c
}

// leaseTaken notes the lease that is about to be written for the entry.
func (e *entry) leaseTaken(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastLease, e.lastSent = sumOf(id), false
}

// callSent notes that something is sent under the entry's lease.
func (e *entry) callSent() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastSent = true
}

// ownLease reports whether a lease is one that this entry took and could not
// give back, and whether anything was sent under it.
func (e *entry) ownLease(id string) (own, sent bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	own = e.lastLease == sumOf(id)
	return own, own && e.lastSent
}

// damageIsNew reports whether a damaged record, named by its sum, was not seen
// before.
func (e *entry) damageIsNew(sum string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.condition().setAside != sum
}

// damageSeen notes that the damaged record is set aside.
func (e *entry) damageSeen(sum string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.condition()
	p.setAside = sum
	e.setCondition(p)
}

// wakeAfter sets the entry's timer. The caller holds e.mu.
func (e *entry) wakeAfter(d time.Duration, wake func()) {
	if e.timer == nil {
		e.timer = time.AfterFunc(d, wake)
		return
	}
	e.timer.Reset(d)
}

// noTimer ends the entry's timer for good: it would take as much memory as all else
// that an entry has. The caller holds e.mu.
func (e *entry) noTimer() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}

// stopTimer ends the entry's timer.
func (e *entry) stopTimer() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
}

// touch notes that the entry is used, to the second: finer would have every
// request write to a line of memory that all cores share.
func (e *entry) touch(now time.Time) {
	if n := now.UnixNano(); n-e.used.Load() > int64(time.Second) {
		e.used.Store(n)
	}
}

// weigh notes how much memory the entry takes, in bytes, and returns by how much
// that differs from before. The caller holds e.mu.
func (e *entry) weigh() int64 {
	size := int64(entryOverhead + len(e.key.encoded))
	if e.passing != nil {
		size += passingOverhead
	}
	if t := e.tok; t != nil {
		size += int64(len(t.header[0]) + len(t.refresh.reveal()))
		for _, f := range t.members.fields {
			size += int64(32 + len(f.Name) + len(f.Value))
		}
	}
	more := size - e.size
	e.size = size
	return more
}

// evict marks the entry as gone, and returns what it took in memory. It does
// nothing if that would lose something: ok is false then.
func (e *entry) evict(keepTokens bool) (size int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || e.unsaved().is || (keepTokens && e.tok != nil) {
		return 0, false
	}
	e.evicted = true
	return e.size, true
}

// lastFailure returns what is remembered of the last renewal.
func (e *entry) lastFailure() failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failure()
}

// current returns the newest token.
func (e *entry) current() *Token {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tok
}
