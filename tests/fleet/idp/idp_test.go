package idp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// app is a client of a provider, as simple as can be.
type app struct {
	*testing.T
	p *Provider
}

func start(t *testing.T, s Settings) app {
	t.Helper()
	s.Lifetime = time.Hour
	p, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return app{t, p}
}

func (a app) send(ctx context.Context, refresh string) (*http.Response, error) {
	a.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.p.URL+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(ClientID, ClientSecret)
	return http.DefaultClient.Do(req)
}

// refresh wants a status, and gives the new pair.
func (a app) refresh(refresh string, want int) pair {
	a.Helper()
	res, err := a.send(a.Context(), refresh)
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	var got pair
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil || res.StatusCode != want {
		a.Fatalf("status %d, want %d: %v", res.StatusCode, want, err)
	}
	return got
}

func (a app) call(access string, want int) {
	a.Helper()
	req, err := http.NewRequestWithContext(a.Context(), http.MethodGet, a.p.URL+"/things", nil)
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		a.Errorf("the API answered %d, want %d", res.StatusCode, want)
	}
}

func (a app) counted(want Counts) {
	a.Helper()
	if got := a.p.Counts(); got != want {
		a.Errorf("counted %+v, want %+v", got, want)
	}
}

// TestReuse: all that came of a grant is dead when a refresh token comes again.
func TestReuse(t *testing.T) {
	a := start(t, Settings{})
	seed := a.p.Seed()
	first := a.refresh(seed, 200)
	second := a.refresh(first.Refresh, 200)
	a.call(first.Access, 200) // it lives until it expires
	a.call(second.Access, 200)
	a.refresh(first.Refresh, 400)
	a.call(first.Access, 401)
	a.call(second.Access, 401)
	a.refresh(second.Refresh, 400)
	a.refresh("another", 400)
	a.counted(Counts{Refreshes: 5, Issued: 2, Alarms: 1, Refused: 2, API: 4, Unauthorized: 2})
}

// TestGrace: a used refresh token is taken again, but not once its successor was used.
func TestGrace(t *testing.T) {
	a := start(t, Settings{Grace: time.Hour})
	seed := a.p.Seed()
	lost := a.refresh(seed, 200)
	kept := a.refresh(seed, 200)
	a.call(lost.Access, 200)
	a.call(kept.Access, 200)
	a.refresh(kept.Refresh, 200)
	a.refresh(seed, 400)
	a.call(kept.Access, 401)
	a.counted(Counts{Refreshes: 4, Issued: 2, Reissued: 1, Alarms: 1, API: 3, Unauthorized: 1})
}

// TestHungUp: only a careless provider uses up the refresh token of a client that is gone.
func TestHungUp(t *testing.T) {
	for careless, want := range map[bool]Counts{
		false: {Refreshes: 1, Issued: 1, HungUp: 1},
		true:  {Refreshes: 2, Issued: 1, Alarms: 1},
	} {
		a := start(t, Settings{MinDelay: 50 * time.Millisecond, Careless: careless})
		seed := a.p.Seed()
		arrivals := a.p.Arrivals()
		ctx, hangUp := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			res, err := a.send(ctx, seed)
			if err == nil {
				res.Body.Close()
			}
			done <- err
		}()
		<-arrivals
		hangUp()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		deadline := time.After(2 * time.Minute)
		for a.p.Calls()[0].Outcome == "" {
			select {
			case <-deadline:
				t.Fatal("the first call is never decided")
			case <-time.After(time.Millisecond):
			}
		}
		status := 200
		if careless {
			status = 400
		}
		a.refresh(seed, status)
		a.counted(want)
	}
}
