package tests

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// Attack 13: somebody can write to the store, and has no storage key.

// vault is a store as that attacker sees it: records by name.
type vault interface {
	records(t *testing.T) map[string][]byte
	put(t *testing.T, name string, record []byte)
}

// files is a vault in a place's file system.
type files struct{ *place }

func (v files) records(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, path := range v.place.records(t) {
		name := filepath.Base(filepath.Dir(path)) + "/" + strings.TrimSuffix(filepath.Base(path), ".json")
		all[name] = mustRead(t, path)
	}
	return all
}

func (v files) put(t *testing.T, name string, record []byte) {
	t.Helper()
	path := filepath.Join(v.storage(), "token_sources", name+".json")
	if record == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
}

// storeKind is a kind of store, with the lines of a Caddyfile that choose it.
type storeKind struct {
	global string // global options
	inside string // lines of token_sources
	vault  func(*place) vault
}

var inFiles = storeKind{vault: func(w *place) vault { return files{w} }}

// inStorage is another storage of Caddy's. It happens to be in the same files.
var inStorage = storeKind{global: "storage test_broken", vault: inFiles.vault}

// sealed is a setup's lines with a storage key, and with migrate if that is wanted.
func (k storeKind) sealed(migrate bool) string {
	block := ""
	if migrate {
		block = " {\nmigrate\n}"
	}
	return k.global + "\ntoken_sources {\nstorage_key {env.TEST_STORAGE_KEY}" + block + "\n" + k.inside + "\n}"
}

func (k storeKind) plain() string {
	if k.inside == "" {
		return k.global
	}
	return k.global + "\ntoken_sources {\n" + k.inside + "\n}"
}

const testStorageKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// forgeries are records that anybody can make for a name, by how they are made. What is in them would take the place of
// everything that is there.
var forgeries = map[string]func(name, canary string) []byte{
	"version 1": func(_, canary string) []byte {
		return []byte(`{"version":1,` + planted(canary, ``) + `}`)
	},
	"version 1 with the members of version 2": func(name, canary string) []byte {
		return []byte(`{"version":1,"sum":"` + checksum(name, `{}`) + `","key":"0011223344556677",` + planted(canary, ``) + `}`)
	},
	"version 2": func(name, canary string) []byte { return withChecksum(name, `{`+planted(canary, ``)+`}`) },
	"version 2 with a lease": func(name, canary string) []byte {
		return withChecksum(name, `{`+planted(canary, `,"intent":{"id":"x","at":"2026-01-01T00:00:00Z","by":"stranger","call":"ahead","lapse_ms":60000}`)+`}`)
	},
	"version 2 with a refusal": func(name, canary string) []byte {
		return withChecksum(name, `{`+planted(canary, `,"refused":{"at":"2026-01-01T00:00:00Z","by":"stranger"}`)+`}`)
	},
}

// planted is the inside of a forged record: the token looks good for an hour.
func planted(canary, more string) string {
	now := time.Now().UTC()
	inside, err := json.Marshal(map[string]any{
		"generation": 1000, "access_token": "planted-access-" + canary, "refresh_token": "planted-refresh-" + canary,
		"token_type": "Bearer", "issued": now, "expiry": now.Add(time.Hour),
	})
	if err != nil {
		panic(err) // it cannot be
	}
	return strings.Trim(string(inside), "{}") + more
}

func checksum(name, inside string) string {
	b := binary.AppendUvarint(nil, uint64(len(name)))
	sum := sha256.Sum256(append(append(b, name...), inside...))
	return hex.EncodeToString(sum[:])
}

func withChecksum(name, inside string) []byte {
	return fmt.Appendf(nil, `{"version":2,"sum":"%s","record":%s}`, checksum(name, inside), inside)
}

// wire stands before a provider, and keeps all that is sent to it.
type wire struct {
	mu   sync.Mutex
	sent strings.Builder
}

func newWire(t *testing.T, p *provider.Provider) (w *wire, url string) {
	t.Helper()
	w = &wire{}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w.mu.Lock()
		fmt.Fprintln(&w.sent, r.URL, r.Header, string(body))
		w.mu.Unlock()
		p.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	return w, server.URL
}

func (w *wire) wantNothingPlanted(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.Contains(w.sent.String(), "planted") {
		t.Error("something planted was sent to the provider, or to the API")
	}
}

// attacked is a sidecar with a storage key, whose store somebody else writes to.
type attacked struct {
	*watched
	*wire
	vault
	person bool
}

func attack(t *testing.T, kind storeKind, person bool) *attacked {
	t.Helper()
	p := provider.New(provider.Generic)
	p.SetRotate(true)
	t.Setenv("TEST_STORAGE_KEY", testStorageKey)
	var c setup
	if person {
		c = codes(p, freePort(t))
	}
	var a attacked
	var url string
	a.wire, url = newWire(t, p)
	c.global, c.tokenURL, c.upstream = kind.sealed(false), url+"/token", url
	a.watched, a.person = watch(t, p, c), person
	a.vault = kind.vault(a.place)
	a.load(t, a.config)
	a.searchAtEnd(t)
	a.wantReadyNow(t, "ready")
	if person {
		a.handOver(t)
	}
	a.get(t).wantOK(t)
	return &a
}

// tokenName is the name of the one record that there is.
func tokenName(t *testing.T, v vault) string {
	t.Helper()
	all := v.records(t)
	if len(all) != 1 {
		t.Fatalf("%d records, want 1", len(all))
	}
	for name := range all {
		return name
	}
	return ""
}

// wantSetAside looks for what was planted, beside a record that is sealed again.
func (a *attacked) wantSetAside(t *testing.T, name string, forged []byte) {
	t.Helper()
	all := a.vault.records(t)
	if !bytes.Equal(all[name+".corrupt"], forged) {
		t.Errorf("set aside: %s", all[name+".corrupt"])
	}
	if record := string(all[name]); !strings.Contains(record, `"sealed"`) || strings.Contains(record, "planted") {
		t.Errorf("the record: %s", record)
	}
	eventually(t, "a log line says which record is not sealed", func() bool {
		log := a.logged(t)
		return strings.Contains(log, "not sealed") && strings.Contains(log, name)
	})
}

// plantedWhileRunning: the sidecar has the token in memory, and reads the record at its next renewal.
func plantedWhileRunning(t *testing.T, kind storeKind) {
	t.Helper()
	for how, forge := range forgeries {
		for name, person := range map[string]bool{"password": false, "code": true} {
			t.Run(how+", "+name, func(t *testing.T) {
				a := attack(t, kind, person)
				record := tokenName(t, a.vault)
				forged := forge(record, a.p.Canary())
				a.put(t, record, forged)
				a.p.RevokeAccessTokens()
				a.get(t).wantOK(t)
				a.wantNothingPlanted(t)
				a.wantSetAside(t, record, forged)
				if n := a.p.ReuseAlarms(); n > 0 || a.p.TokenCount() != 2 {
					t.Errorf("%d reuse alarms, %d token calls, want one to begin with and one more", n, a.p.TokenCount())
				}
			})
		}
	}
}

// plantedBeforeTheStart: the sidecar has nothing but the record.
func plantedBeforeTheStart(t *testing.T, kind storeKind) {
	t.Helper()
	for how, forge := range forgeries {
		t.Run(how+", password", func(t *testing.T) {
			a := attack(t, kind, false)
			record := tokenName(t, a.vault)
			stop(t)
			forged := forge(record, a.p.Canary())
			a.put(t, record, forged)
			a.load(t, a.config)
			a.get(t).wantOK(t)
			a.wantNothingPlanted(t)
			a.wantSetAside(t, record, forged)
			a.wantReadyNow(t, "ready")
		})
		t.Run(how+", code", func(t *testing.T) {
			a := attack(t, kind, true)
			record := tokenName(t, a.vault)
			stop(t)
			forged := forge(record, a.p.Canary())
			a.put(t, record, forged)
			a.load(t, a.config)
			got := a.get(t)
			got.wantProblem(t, http.StatusBadGateway, "token-refused")
			if !strings.Contains(got.body, `"fault":"record"`) {
				t.Errorf("the problem does not say whose fault it is: %s", got.body)
			}
			a.wantReady(t, "unavailable", "record_refused")
			eventually(t, "a log line says which record is not sealed, and what to do", func() bool {
				log := a.logged(t)
				return strings.Contains(log, "not sealed") && strings.Contains(log, record) && strings.Contains(log, "migrate")
			})
			if now := a.vault.records(t)[record]; !bytes.Equal(now, forged) {
				t.Errorf("it was written over: %s", now)
			}
			a.wantNothingPlanted(t)
			if n := a.p.TokenCount(); n != 1 {
				t.Errorf("%d token calls, want the one for the code", n)
			}
		})
	}
}

// TestAttack13PlantedWhileRunning: what is planted is set aside, and the sidecar writes what it has itself.
func TestAttack13PlantedWhileRunning(t *testing.T) { plantedWhileRunning(t, inFiles) }

// TestAttack13PlantedBeforeTheStart: a grant that can be repeated is; a person's record is left alone until somebody
// decides.
func TestAttack13PlantedBeforeTheStart(t *testing.T) { plantedBeforeTheStart(t, inFiles) }

// TestAttack13OtherStorage: the same in another storage of Caddy's.
func TestAttack13OtherStorage(t *testing.T) {
	t.Run("while running", func(t *testing.T) { plantedWhileRunning(t, inStorage) })
	t.Run("before the start", func(t *testing.T) { plantedBeforeTheStart(t, inStorage) })
}

// TestAttack13PutBack: a sealed record from a backup is good again with no restart.
func TestAttack13PutBack(t *testing.T) {
	a := attack(t, inFiles, true)
	record := tokenName(t, a.vault)
	good := a.vault.records(t)[record]
	stop(t)
	a.put(t, record, forgeries["version 1"](record, a.p.Canary()))
	a.load(t, a.config)
	a.wantReady(t, "unavailable", "record_refused")
	a.put(t, record, good)
	eventually(t, "it is used", func() bool { return a.get(t).status == http.StatusOK })
	a.wantReadyNow(t, "ready")
	a.wantNothingPlanted(t)
	if n := a.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls, want the one for the code", n)
	}
}

// TestAttack13Removed: where the record is removed, only a person can bring the next token, and may do so at once.
func TestAttack13Removed(t *testing.T) {
	a := attack(t, inFiles, true)
	record := tokenName(t, a.vault)
	stop(t)
	a.put(t, record, forgeries["version 1"](record, a.p.Canary()))
	a.load(t, a.config)
	a.get(t).wantProblem(t, http.StatusBadGateway, "token-refused")
	a.put(t, record, nil)
	eventually(t, "a person is asked for", func() bool { return a.get(t).status == http.StatusForbidden })
	a.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
	a.handOver(t)
	a.get(t).wantOK(t)
	a.wantNothingPlanted(t)
}

// TestAttack13CodeReplacesIt: a person who brings a code need not wait for an operator.
func TestAttack13CodeReplacesIt(t *testing.T) {
	a := attack(t, inFiles, true)
	record := tokenName(t, a.vault)
	stop(t)
	forged := forgeries["version 2"](record, a.p.Canary())
	a.put(t, record, forged)
	a.load(t, a.config)
	a.get(t).wantProblem(t, http.StatusBadGateway, "token-refused")
	a.handOver(t)
	a.get(t).wantOK(t)
	a.wantReadyNow(t, "ready")
	a.wantSetAside(t, record, forged)
	a.wantNothingPlanted(t)
}

// keyIsAdded adds a storage key to a store that is in use. Without migrate nothing is lost; with it no person notices.
func keyIsAdded(t *testing.T, kind storeKind) {
	t.Helper()
	for name, person := range map[string]bool{"password": false, "code": true} {
		t.Run(name, func(t *testing.T) {
			p := provider.New(provider.Generic)
			p.SetRotate(true)
			t.Setenv("TEST_STORAGE_KEY", testStorageKey)
			var c setup
			if person {
				c = codes(p, freePort(t))
			}
			const mark = "email nobody@example.com" // the line that the token_sources take the place of
			c.global = mark
			s := watch(t, p, c)
			config := func(lines string) []byte {
				return s.contain(t, adapt(t, "sidecar.caddyfile", []byte(strings.Replace(s.caddyfile, mark, lines, 1))))
			}
			v := kind.vault(s.place)
			s.load(t, config(kind.plain()))
			s.searchAtEnd(t)
			if person {
				s.handOver(t)
			}
			first := s.get(t).wantOK(t)
			record := tokenName(t, v)
			plain := v.records(t)[record]
			if !strings.Contains(string(plain), `"access_token"`) {
				t.Fatalf("it is sealed: %s", plain)
			}

			if person { // the key alone, by mistake
				s.load(t, config(kind.sealed(false)))
				s.get(t).wantProblem(t, http.StatusBadGateway, "token-refused")
				s.wantReady(t, "unavailable", "record_refused")
				if now := v.records(t)[record]; !bytes.Equal(now, plain) {
					t.Errorf("it was written over: %s", now)
				}
			}
			s.load(t, config(kind.sealed(true)))
			s.wantLogged(t, "storage_key has `migrate`")
			if again := s.get(t).wantOK(t); again.Serial != first.Serial {
				t.Errorf("token %d, want %d as before", again.Serial, first.Serial)
			}
			s.wantReadyNow(t, "ready")
			if now := string(v.records(t)[record]); !strings.Contains(now, `"sealed"`) || strings.Contains(now, `"access_token"`) {
				t.Errorf("it was read, and is not sealed: %s", now)
			}
			if n := countLines(s.logged(t), "is sealed now"); n != 1 {
				t.Errorf("%d log lines say that it is sealed", n)
			}

			s.load(t, config(kind.sealed(false)))
			if again := s.get(t).wantOK(t); again.Serial != first.Serial {
				t.Errorf("without migrate token %d, want %d as before", again.Serial, first.Serial)
			}
			if n := s.p.TokenCount(); n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
			s.p.RevokeAccessTokens()
			s.get(t).wantOK(t)
		})
	}
}

// TestStorageKeyIsAdded is what docs/operations.md says of it.
func TestStorageKeyIsAdded(t *testing.T) {
	t.Run("files", func(t *testing.T) { keyIsAdded(t, inFiles) })
	t.Run("another storage", func(t *testing.T) { keyIsAdded(t, inStorage) })
}
