package tokensource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// What a source has in its store: one record for each key.

const (
	// storeTimeout bounds a reading.
	storeTimeout = 10 * time.Second
	// A grant that can be repeated does not wait as long for a store: it goes on
	// without, sooner if the store is known to fail.
	storeTimeoutSoon  = 3 * time.Second
	storeTimeoutKnown = 500 * time.Millisecond
)

// ofStore reports whether an error is of the store, not of the provider.
func ofStore(err error) bool {
	var store *tokenstore.Error
	return errors.As(err, &store)
}

// storeFailed returns a store's failure as callers see it, an ErrUnavailable,
// and any other error as it is.
func storeFailed(err error) error {
	if ofStore(err) {
		return &storeError{err}
	}
	return err
}

// storeError is a failure of the store.
type storeError struct{ err error }

func (e *storeError) Error() string        { return e.err.Error() }
func (e *storeError) Unwrap() error        { return e.err }
func (e *storeError) Is(target error) bool { return target == ErrUnavailable }

// unreadable is a refusal by no provider: waiting does not help, and nothing
// was asked.
type unreadable struct{ err error }

func (e unreadable) Error() string        { return e.err.Error() }
func (e unreadable) Unwrap() error        { return e.err }
func (e unreadable) Is(target error) bool { return target == ErrRefused || target == ErrUnreadable }

// stored is what the store has of one key.
type stored struct {
	raw     []byte // as the store gave it; nil: nothing is there
	rec     *tokenstore.Record
	token   *Token // the record's; nil: none
	damaged bool   // there is a record, and it is not to be used
}

// recordName names the record of one key. What the token belongs to (the
// endpoint, the client) is part of the name: with other settings it is
// another record, and putting the settings back brings the token back.
func (s *Source) recordName(k Key) string {
	return s.recordPrefix + "/" + hashParts(k.encoded)
}

// read returns what is stored of the entry's key. A damaged record is set
// aside and read as none; so is one that is not sealed, if nothing is lost by it.
// The error is of the store, or tokenstore's ErrUnreadable.
func (s *Source) read(ctx context.Context, e *entry) (*stored, error) {
	if s.store == nil {
		return &stored{rec: &tokenstore.Record{}}, nil
	}
	name := s.recordName(e.key)
	ctx, cancel := context.WithTimeout(ctx, s.readTimeout(e))
	defer cancel()
	rec, raw, err := s.store.Read(ctx, name)
	if err == nil && rec != nil && rec.Generation > 0 && !tokenendpoint.ValidToken(rec.AccessToken) {
		err = fmt.Errorf("the stored token is %w: it could not be put into a header", tokenstore.ErrDamaged)
	}
	unsealed := errors.Is(err, tokenstore.ErrUnsealed)
	if unsealed && !s.replaceable(e) {
		return nil, fmt.Errorf("%w; it is %w", err, tokenstore.ErrUnreadable)
	}
	switch {
	case unsealed, errors.Is(err, tokenstore.ErrDamaged):
		return &stored{raw: raw, rec: &tokenstore.Record{}, damaged: true}, s.setAside(ctx, e, name, raw, err)
	case err != nil && ofStore(err):
		return &stored{rec: &tokenstore.Record{}}, storeFailed(err)
	case err != nil:
		return nil, err
	case rec == nil:
		return &stored{rec: &tokenstore.Record{}}, nil
	}
	t := tokenOf(rec, time.Now(), s.cfg.RefreshAhead, random())
	if t != nil {
		t.members = s.common.share(t.members)
		if s.forgets() {
			t.refresh.mayForget()
		}
	}
	return &stored{raw: raw, rec: rec, token: t}, nil
}

// replaceable reports whether a record of the entry that is not sealed may be
// written over, once it is set aside: if this process has the token itself, if the
// grant can be repeated, or if a person has just brought a code. Otherwise it may
// be from before there was a key, and hold the only refresh token.
func (s *Source) replaceable(e *entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !s.grant.Interactive || e.tok != nil || (e.flight != nil && e.flight.why == ReasonCode)
}

// readTimeout bounds a reading of the entry's record. Where requests wait for a
// grant that can be repeated, they do not wait long for the store.
func (s *Source) readTimeout(e *entry) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.grant.Interactive || e.unsaved().is || stateAt(time.Now(), e.tok) != expired || (e.tok != nil && e.tok.refresh.is()):
		return storeTimeout
	case s.store.Err() != nil:
		return storeTimeoutKnown
	}
	return storeTimeoutSoon
}

// setAside keeps a damaged record for a person to look at. It is told of once.
func (s *Source) setAside(ctx context.Context, e *entry, name string, raw []byte, why error) error {
	sum := hashParts(name, string(raw))
	if !e.damageIsNew(sum) {
		return nil
	}
	s.log.Error("stored token set aside", "source", s.cfg.Name, "key", e.key.String(), "record", name, "error", why)
	if err := s.store.SetAside(ctx, name, raw); err != nil {
		return storeFailed(err)
	}
	e.damageSeen(sum)
	return nil
}

// write stores r over old, and returns what it wrote.
func (s *Source) write(ctx context.Context, e *entry, old []byte, r *tokenstore.Record) ([]byte, error) {
	b, err := s.store.Write(ctx, s.recordName(e.key), old, r)
	return b, storeFailed(err)
}

// storeTurned tells that the store begins to fail, or works again.
func (s *Source) storeTurned(err error) {
	if err == nil {
		s.log.Info("token store works again", "source", s.cfg.Name)
	} else {
		s.log.Error("token store fails: tokens that are valid serve on, those that hang on a refresh token are not renewed",
			"source", s.cfg.Name, "error", err)
	}
	s.cfg.Observer.Store(s.cfg.Name, err)
}

// recordSealed tells of a record that was not sealed before.
func (s *Source) recordSealed(name string) {
	s.log.Info("a stored record that was not sealed is sealed now", "source", s.cfg.Name, "record", name)
}

// put fills in what the record says of a token; nil: there is none.
func put(r *tokenstore.Record, t *Token) {
	if t == nil {
		return
	}
	r.Generation, r.AccessToken, r.RefreshToken = t.generation, t.AccessToken(), t.refresh.reveal()
	r.Issued, r.Expiry = t.issued.UTC(), t.Expiry().UTC()
	r.TokenType, r.Fields, r.Lacks = t.members.tokenType, nil, t.members.lacks
	for _, f := range t.members.fields {
		r.Fields = append(r.Fields, tokenstore.Field(f))
	}
}

// tokenOf is the record's token; nil: it has none. When it is due is drawn anew
// by each process, so that a fleet does not act at once.
func tokenOf(r *tokenstore.Record, now time.Time, ra RefreshAhead, random float64) *Token {
	if r.Generation == 0 {
		return nil
	}
	t := newToken(r.AccessToken, r.RefreshToken)
	t.generation = r.Generation
	m := &members{tokenType: r.TokenType, lacks: r.Lacks}
	for _, f := range r.Fields {
		m.fields = append(m.fields, tokenendpoint.Field(f))
	}
	t.members = m
	lifetime := time.Duration(0)
	if !r.Expiry.IsZero() {
		lifetime = max(r.Expiry.Sub(r.Issued), 1) // 0 would be for ever
	}
	// now carries a monotonic reading and the record does not: adding the
	// difference gives the moments one. Where the clocks differ, a token is not
	// younger than new.
	t.live(now.Add(min(r.Issued.Sub(now.Round(0)), 0)), lifetime, ra, random)
	t.orphan.Store(r.Refused != nil)
	if r.Lease != nil && r.Lease.Call != string(ReasonCode) && r.Refused == nil && t.after(t.fresh).After(now) {
		t.dueAt(now) // somebody renews it, or was cut off doing so: a renewal finds out which
	}
	return t
}
