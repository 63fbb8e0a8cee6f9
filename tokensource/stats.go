package tokensource

import "time"

// Stats are what can be counted of a source.
type Stats struct {
	// Tokens in memory that are not expired.
	Tokens int
	// Expiry is the earliest expiry of those, or, where all are expired, the latest
	// of them all: when the last token died. Zero: none expires.
	Expiry time.Time
	// Unstored tokens serve from memory, for the store did not take them yet:
	// they would be lost with this process.
	Unstored int
	// NeedPerson counts the keys whose refresh token was refused for good: a
	// person must authorize again. Keys that nobody authorized yet do not count.
	NeedPerson int
	// Failing counts the keys that have no usable token, and whose last renewal
	// failed.
	Failing int
	// Retrying counts the keys whose token serves, and whose last renewal failed.
	Retrying int
	// Overdue tokens are expired and serve on, in their time of grace, for their
	// last renewal failed.
	Overdue int
}

// Stats counts. It looks at every key.
func (s *Source) Stats() Stats {
	var st Stats
	var died time.Time
	now := time.Now()
	s.each(func(e *entry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		f := e.failure()
		if e.unsaved().is {
			st.Unstored++
		}
		if e.lost {
			st.NeedPerson++
		}
		t := e.tok
		if t != nil && t.Expiry().After(died) {
			died = t.Expiry()
		}
		switch {
		case stateAt(now, t) != expired:
			st.Tokens++
			if f.err != nil && !e.lost {
				st.Retrying++
			}
			if !t.Expiry().IsZero() && (st.Expiry.IsZero() || t.Expiry().Before(st.Expiry)) {
				st.Expiry = t.Expiry()
			}
		case f.err != nil && s.inGrace(now, t):
			st.Overdue++
		case f.err != nil && (t != nil || e.lost || s.single != nil):
			st.Failing++
		}
	})
	if st.Tokens == 0 {
		st.Expiry = died
	}
	return st
}

// Trouble is something that is wrong with a source.
type Trouble struct {
	// Fault says whose fault it is.
	Fault Fault
	// Keys is how many keys it concerns; 0: all of them.
	Keys int
	// Since is when it began.
	Since time.Time
	// Next is when the next attempt is made, or may be; zero: none before something
	// changes.
	Next time.Time
	// Err is the last failure.
	Err error
}

// Troubles lists what is wrong, one for each fault, the worst first: the
// endpoint or the client, the store, records, consents, users. It looks at every
// key.
func (s *Source) Troubles() []Trouble {
	now := time.Now()
	var all []Trouble
	if t := s.gate.trouble(); t.Fault != FaultNone {
		all = append(all, t)
	}
	if s.store != nil {
		if since, err := s.store.Failing(); err != nil {
			all = append(all, Trouble{Fault: FaultStore, Since: since, Next: now, Err: err})
		}
	}
	byFault := make(map[Fault]*Trouble)
	s.each(func(e *entry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		f := e.failure()
		fault := f.fault
		if e.lost {
			fault = FaultConsent
		}
		switch {
		case fault == FaultRecord, fault == FaultSuspected, fault == FaultConsent && e.lost:
		case fault == FaultUser && !s.gate.pardoned(f.at):
		default:
			return
		}
		t := byFault[fault]
		if t == nil {
			t = &Trouble{Fault: fault, Since: f.since}
			byFault[fault] = t
		}
		t.Keys++
		if f.since.Before(t.Since) {
			t.Since = f.since
		}
		if next := f.callAt; next.Sub(now) < never/2 && (t.Next.IsZero() || next.Before(t.Next)) {
			t.Next = next
		}
		t.Err = f.err
	})
	for _, fault := range []Fault{FaultRecord, FaultConsent, FaultSuspected, FaultUser} {
		if t := byFault[fault]; t != nil {
			all = append(all, *t)
		}
	}
	return all
}

// LastSuccess is when a token call last brought a token; zero: none has.
func (s *Source) LastSuccess() time.Time { return s.gate.issued() }

// StoreError is the store's last failure; nil: it works, or was not used yet.
func (s *Source) StoreError() error {
	if s.store == nil {
		return nil
	}
	return s.store.Err()
}
