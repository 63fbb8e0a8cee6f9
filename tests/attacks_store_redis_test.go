//go:build redis

package tests

import (
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

// inServer is a vault in a Redis.
type inServer struct{ *redistest.Server }

func (v inServer) names(t *testing.T) []string {
	t.Helper()
	return strings.Fields(v.Do(t, `EVAL "return table.concat(redis.call('KEYS', ARGV[1]), ' ')" 0 token_sources/*`))
}

func (v inServer) records(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, name := range v.names(t) {
		all[strings.TrimPrefix(name, "token_sources/")] = []byte(v.Do(t, "GET "+name))
	}
	return all
}

func (v inServer) put(t *testing.T, name string, record []byte) {
	t.Helper()
	if record == nil {
		v.Do(t, "DEL token_sources/"+name)
		return
	}
	if strings.ContainsAny(string(record), "'\\\n") {
		t.Fatalf("it cannot be written as one word: %s", record)
	}
	v.Do(t, "SET token_sources/"+name+" '"+string(record)+"'")
}

// inRedis is a store in a Redis of the test's own.
func inRedis(t *testing.T) storeKind {
	t.Helper()
	server := redistest.Start(t)
	return storeKind{inside: "store redis {\naddress " + server.Addr + "\n}", vault: func(*place) vault {
		server.Do(t, "FLUSHALL") // each sidecar begins with none
		return inServer{server}
	}}
}

// TestAttack13Redis: what is planted in a Redis is not used.
func TestAttack13Redis(t *testing.T) {
	t.Run("while running", func(t *testing.T) { plantedWhileRunning(t, inRedis(t)) })
	t.Run("before the start", func(t *testing.T) { plantedBeforeTheStart(t, inRedis(t)) })
}

// TestStorageKeyIsAddedRedis is TestStorageKeyIsAdded with a Redis.
func TestStorageKeyIsAddedRedis(t *testing.T) { keyIsAdded(t, inRedis(t)) }
