package tokensource

import "time"

// Stats are what can be counted of a source.
type Stats struct {
	// Tokens in memory that are not expired.
	Tokens int
	// Expiry is the earliest expiry of those; zero: none expires.
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
	now := time.Now()
	s.each(func(e *entry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.unsaved.is {
			st.Unstored++
		}
		if e.lost {
			st.NeedPerson++
		}
		switch t := e.tok; {
		case stateAt(now, t) != expired:
			st.Tokens++
			if e.failure.err != nil && !e.lost {
				st.Retrying++
			}
			if !t.expiry.IsZero() && (st.Expiry.IsZero() || t.expiry.Before(st.Expiry)) {
				st.Expiry = t.expiry
			}
		case e.failure.err != nil && s.inGrace(now, t):
			st.Overdue++
		case e.failure.err != nil && (t != nil || e.lost || s.single != nil):
			st.Failing++
		}
	})
	return st
}

// StoreError is the store's last failure; nil: it works, or was not used yet.
func (s *Source) StoreError() error {
	if s.store == nil {
		return nil
	}
	return s.store.Err()
}
