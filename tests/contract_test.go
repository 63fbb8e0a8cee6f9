package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// firstCalls is how many token calls a setup makes for a first user.
func (c *contract) firstCalls() int {
	if c.kind == provider.Mondia {
		return 2 // the client's token, and the user's
	}
	return 1
}

func TestFirstCallAndReuse(t *testing.T) {
	each(t, all, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		if first.Holder != s.holder || first.Client {
			t.Errorf("the token of %q went out (a client's: %v), want %q's", first.Holder, first.Client, s.holder)
		}
		if first.Path != s.path || first.Method != http.MethodGet {
			t.Errorf("the API got %s %s", first.Method, first.Path)
		}
		second := s.get(t).wantOK(t)
		if second.Serial != first.Serial {
			t.Errorf("token %d, then token %d", first.Serial, second.Serial)
		}
		if n := s.p.TokenCount(); n != s.firstCalls() {
			t.Errorf("%d token calls, want %d", n, s.firstCalls())
		}
	})
}

func TestAppCredentialsAreReplaced(t *testing.T) {
	each(t, all, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		header := s.header.Clone()
		if header == nil {
			header = http.Header{}
		}
		header["Authorization"] = []string{"Bearer of-the-app", "Basic of-the-app"}
		header["authorization"] = []string{"Bearer of-the-app"}
		header["Authorization_"] = []string{"Bearer of-the-app"}
		header["Proxy-Authorization"] = []string{"Basic of-the-app"}
		header["Connection"] = []string{"Authorization"}
		e := s.call(t, http.MethodGet, s.path, header, "").wantOK(t)
		if e.Holder != s.holder {
			t.Errorf("the token of %q went out", e.Holder)
		}
	})
}

func TestKeyHeadersStayHere(t *testing.T) {
	each(t, keyed, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		e := s.get(t).wantOK(t)
		for name := range c.header {
			if e.Header[name] != nil {
				t.Errorf("%s was forwarded", name)
			}
		}
	})
}

func TestMissingKey(t *testing.T) {
	each(t, keyed, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		s.p.Forget()
		s.call(t, http.MethodGet, s.path, nil, "").wantProblem(t, http.StatusBadRequest, "key-missing")
		for name := range c.header {
			empty := c.header.Clone()
			empty.Set(name, "")
			s.call(t, http.MethodGet, s.path, empty, "").wantProblem(t, http.StatusBadRequest, "key-missing")
		}
		if n := s.p.APICount(); n != 0 {
			t.Errorf("%d API calls without a key", n)
		}
		for _, call := range s.p.TokenCalls() {
			if call.GrantType != "client_credentials" { // Mondia's client token, which belongs to no user, is obtained at the start
				t.Errorf("a token call without a key: %s", call.GrantType)
			}
		}
	})
}

func TestUsersAreApart(t *testing.T) {
	each(t, keyed, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		mine := s.get(t).wantOK(t)

		other := c
		other.header, other.holder = c.header.Clone(), strings.Replace(c.holder, "42", "43", 1)
		for name, values := range other.header {
			other.header.Set(name, strings.Replace(values[0], "42", "43", 1))
		}
		s.contract = &other
		if c.person {
			s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
		}
		s.authorize(t)
		if theirs := s.get(t).wantOK(t); theirs.Holder != other.holder || theirs.Serial == mine.Serial {
			t.Errorf("token %d of %q went out for %q", theirs.Serial, theirs.Holder, other.holder)
		}
		s.contract = &c
		if again := s.get(t).wantOK(t); again.Serial != mine.Serial {
			t.Errorf("the first user's token is now %d, was %d", again.Serial, mine.Serial)
		}
	})
}

func TestReloadAndRestartKeepTokens(t *testing.T) {
	each(t, all, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		again := func(after string) {
			t.Helper()
			s.client.CloseIdleConnections()
			if e := s.get(t).wantOK(t); e.Serial != first.Serial {
				t.Errorf("after a %s: token %d, was %d", after, e.Serial, first.Serial)
			}
			if n := s.p.TokenCount(); n != s.firstCalls() {
				t.Errorf("after a %s: %d token calls, want %d", after, n, s.firstCalls())
			}
		}
		s.load(t, s.config)
		again("reload")
		stop(t)
		s.load(t, s.config)
		again("restart")
		s.wantPrivateFiles(t)
	})
}

// wantPrivateFiles fails the test if another user of the host could read what is stored.
func (s *stack) wantPrivateFiles(t *testing.T) {
	t.Helper()
	found := 0
	err := filepath.Walk(s.storage(), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		found++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("%d stored files: %v", found, err)
	}
}

// TestKill kills a real process with the first answer barely out of it: what it learned must be in the store by then.
func TestKill(t *testing.T) {
	each(t, all, func(t *testing.T, c contract) {
		s := newStack(t, c)
		process := startProcess(t, s.config, s.vars, s.address)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		s.printed += process.kill(t)

		process = startProcess(t, s.config, s.vars, s.address)
		s.client.CloseIdleConnections()
		if e := s.get(t).wantOK(t); e.Serial != first.Serial {
			t.Errorf("token %d, was %d", e.Serial, first.Serial)
		}
		if n := s.p.TokenCount(); n != s.firstCalls() {
			t.Errorf("%d token calls, want %d", n, s.firstCalls())
		}
		s.searchCanaries(t, s.p, map[string]string{"problem answers": s.problems.String()})
		s.printed += process.kill(t)
		searchText(t, s.p, "output", s.printed)
	})
}
