package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// app is a client of a provider whose refresh tokens rotate, as simple as can be.
type app struct {
	*testing.T
	*provider.Provider
	client *http.Client
	url    string
}

// pair is what a token request is answered with.
type pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func rotating() *provider.Provider {
	p := provider.New(provider.Generic)
	p.SetRotate(true)
	return p
}

// inMemory makes an app with no network between.
func inMemory(t *testing.T, p *provider.Provider) app {
	t.Helper()
	return app{t, p, &http.Client{Transport: p}, "http://provider.test"}
}

// overSockets makes an app with a real network between.
func overSockets(t *testing.T, p *provider.Provider) app {
	t.Helper()
	s, err := provider.Start(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return app{t, p, http.DefaultClient, s.URL}
}

func (a app) send(ctx context.Context, refresh string) (*http.Response, error) {
	a.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(a.ClientID, a.ClientSecret)
	return a.client.Do(req)
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
	req, err := http.NewRequestWithContext(a.Context(), http.MethodGet, a.url+"/things", nil)
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	res, err := a.client.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		a.Errorf("the API answered %d, want %d", res.StatusCode, want)
	}
}

func (a app) counted(want provider.Counts) {
	a.Helper()
	if got := a.Counts(); got != want {
		a.Errorf("counted %+v, want %+v", got, want)
	}
}

// TestReuse: all that came of a grant is dead when a refresh token comes again.
func TestReuse(t *testing.T) {
	a := overSockets(t, rotating())
	seed := a.NewRefreshToken("alice")
	first := a.refresh(seed, 200)
	second := a.refresh(first.Refresh, 200)
	a.call(first.Access, 200) // it lives until it expires
	a.call(second.Access, 200)
	a.refresh(first.Refresh, 400)
	a.call(first.Access, 401)
	a.call(second.Access, 401)
	a.refresh(second.Refresh, 400)
	a.refresh("another", 400)
	a.counted(provider.Counts{Refreshes: 5, Issued: 2, Alarms: 1, Refused: 2, API: 4, Unauthorized: 2})
}

// TestCallsTellOfTheGrant: each refresh is told with its grant, the generation that it brought, and what came of it.
func TestCallsTellOfTheGrant(t *testing.T) {
	a := inMemory(t, rotating())
	seed := a.NewRefreshToken("alice")
	first := a.refresh(seed, 200)
	a.refresh(first.Refresh, 200)
	a.refresh(seed, 400)
	a.refresh(seed, 400)
	want := []struct {
		generation int
		outcome    provider.Outcome
	}{{0, provider.Issued}, {1, provider.Issued}, {0, provider.Reused}, {0, provider.Revoked}}
	for i, c := range a.TokenCalls() {
		if c.Number != i+1 || c.Family != 1 || c.Generation != want[i].generation || c.Outcome != want[i].outcome {
			t.Errorf("%v: want generation %d, %s", c, want[i].generation, want[i].outcome)
		}
		if c.Time.After(c.Decided) || c.Decided.IsZero() {
			t.Errorf("%v: decided at %v", c, c.Decided)
		}
	}
	if last := a.LastTokenCalls(2); len(last) != 2 || last[0].Number != 3 || last[1].Number != 4 {
		t.Errorf("the last calls: %v", last)
	}
}

// TestGrace: a used refresh token is taken again, but not once its successor was used.
func TestGrace(t *testing.T) {
	p := rotating()
	p.SetGrace(time.Hour)
	a := overSockets(t, p)
	seed := a.NewRefreshToken("alice")
	lost := a.refresh(seed, 200)
	kept := a.refresh(seed, 200)
	a.call(lost.Access, 200)
	a.call(kept.Access, 200)
	a.refresh(kept.Refresh, 200)
	a.refresh(seed, 400)
	a.call(kept.Access, 401)
	a.counted(provider.Counts{Refreshes: 4, Issued: 2, Reissued: 1, Alarms: 1, API: 3, Unauthorized: 1})
}

// TestGraceEnds: a used refresh token is an alarm once the grace is over.
func TestGraceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := rotating()
		p.SetGrace(time.Minute)
		a := inMemory(t, p)
		seed := a.NewRefreshToken("alice")
		a.refresh(seed, 200)
		advance(time.Minute)
		a.refresh(seed, 400)
		a.counted(provider.Counts{Refreshes: 2, Issued: 1, Alarms: 1})
	})
}

// TestRevokeEvery: with each second generation, all access tokens of the grant die an eighth of their lifetime later,
// those that are issued until then too.
func TestRevokeEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := rotating()
		p.SetLifetime(80 * time.Second)
		p.SetRevokeEvery(2)
		a := inMemory(t, p)
		another := a.NewAccessToken("bob", time.Hour)
		first := a.refresh(a.NewRefreshToken("alice"), 200)
		advance(20 * time.Second)
		a.call(first.Access, 200)
		second := a.refresh(first.Refresh, 200)
		advance(9 * time.Second)
		third := a.refresh(second.Refresh, 200)
		for _, p := range []pair{first, second, third} {
			a.call(p.Access, 200)
		}
		advance(time.Second)
		for _, p := range []pair{first, second, third} {
			a.call(p.Access, 401)
		}
		a.call(another, 200)
		p.SetRevokeEvery(0)
		fourth := a.refresh(third.Refresh, 200)
		advance(79 * time.Second)
		a.call(fourth.Access, 200)
	})
}

// TestHungUp: only a provider that is not attentive uses up the refresh token of a client that is gone.
func TestHungUp(t *testing.T) {
	for name, between := range map[string]func(*testing.T, *provider.Provider) app{
		"over sockets": overSockets, "in memory": inMemory,
	} {
		for attentive, want := range map[bool]provider.Counts{
			true:  {Refreshes: 1, Issued: 1, HungUp: 1},
			false: {Refreshes: 2, Issued: 1, Alarms: 1},
		} {
			t.Run(name, func(t *testing.T) {
				p := rotating()
				p.SetThinking(50*time.Millisecond, 50*time.Millisecond)
				p.SetAttentive(attentive)
				hangUp(between(t, p), attentive)
				if got := p.Counts(); got != want {
					t.Errorf("counted %+v, want %+v", got, want)
				}
			})
		}
	}
}

// hangUp presents a refresh token, hangs up, and presents it again.
func hangUp(a app, attentive bool) {
	a.Helper()
	seed := a.NewRefreshToken("alice")
	arrivals := a.Arrivals()
	ctx, hangUp := context.WithCancel(a.Context())
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
		a.Fatal(err)
	}
	deadline := time.After(2 * time.Minute)
	for a.TokenCalls()[0].Outcome == "" {
		select {
		case <-deadline:
			a.Fatal("the first call is never decided")
		case <-time.After(time.Millisecond):
		}
	}
	status := 400
	if attentive {
		status = 200
	}
	a.refresh(seed, status)
}
