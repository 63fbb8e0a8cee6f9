//go:build redis

package redisstore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore/redisstore"
)

func TestNew(t *testing.T) {
	for name, cfg := range map[string]redisstore.Config{
		"no address":           {},
		"replicas below zero":  {Addresses: []string{"a:1"}, Replicas: -1},
		"a cluster's database": {Addresses: []string{"a:1", "b:1"}, DB: 1},
	} {
		if _, err := redisstore.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestPassword: a server that wants one gets it, and no error shows it.
func TestPassword(t *testing.T) {
	const password, wrong = "hunter2-and-more", "hunter3-and-more"
	server := redistest.Start(t, "--requirepass", password)
	good := open(t, redisstore.Config{Password: tokenendpoint.NewSecret(password), DB: 3, Prefix: "p:"}, server.Addr)
	must(t, good.Swap(t.Context(), "a", nil, []byte("one")))
	for name, cfg := range map[string]redisstore.Config{
		"none": {}, "wrong": {Password: tokenendpoint.NewSecret(wrong)},
		"wrong user": {Username: "nobody", Password: tokenendpoint.NewSecret(wrong)},
	} {
		s := open(t, cfg, server.Addr)
		_, err := s.Load(t.Context(), "a")
		failing(t, name, err)
		if err != nil && strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
	if text := good.String() + fmt.Sprintf("%v", good); strings.Contains(text, password) {
		t.Errorf("%s holds the password", text)
	}
}

// TestSentinel: the store follows Sentinel to the promoted replica. A server
// that Sentinel does not know is no empty store.
func TestSentinel(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Follow(t, master.Addr)
	host, port, _ := net.SplitHostPort(master.Addr)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", host, port)
	must(t, os.WriteFile(config, []byte(text), 0o600))
	sentinel := redistest.StartSentinel(t, config)

	unknown := open(t, redisstore.Config{Master: "other", Timeout: time.Second}, sentinel.Addr)
	_, err := unknown.Load(t.Context(), "a")
	failing(t, "a name that Sentinel does not know", err)

	s := open(t, redisstore.Config{Master: "main", Replicas: 1, Timeout: time.Second}, sentinel.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	// Sentinel asks the master for its replicas each 10 s
	redistest.Eventually(t, 15*time.Second, "Sentinel knows the replica", func() bool {
		return strings.Contains(sentinel.Do(t, "INFO sentinel"), "slaves=1")
	})
	master.Kill()
	redistest.Eventually(t, 20*time.Second, "the replica serves", func() bool {
		got, err := s.Load(t.Context(), "a")
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatal("the record is gone")
		}
		return err == nil && string(got) == "one"
	})
}

func TestCluster(t *testing.T) {
	var nodes []*redistest.Server
	args := []string{"--cluster", "create"}
	for range 3 {
		node := redistest.Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", redistest.FreePort(t))
		nodes, args = append(nodes, node), append(args, node.Addr)
	}
	if out, err := exec.Command("redis-cli", append(args, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	redistest.Eventually(t, 10*time.Second, "the cluster serves", func() bool {
		for _, node := range nodes {
			if !strings.Contains(node.Do(t, "CLUSTER INFO"), "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	s := open(t, redisstore.Config{}, nodes[0].Addr, nodes[1].Addr)
	for i := range 30 {
		key := fmt.Sprint("k", i)
		if _, err := s.Load(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, s.Swap(t.Context(), key, nil, []byte(key)))
		want(t, s, key, key)
	}
	for _, node := range nodes {
		if n := node.Do(t, "DBSIZE"); n == ":0" {
			t.Error("a node has no record: the test shows little")
		}
	}
	// a key that lives elsewhere now
	slot := nodes[0].Do(t, "CLUSTER KEYSLOT token_sources/moved")[1:]
	to := nodes[1]
	if answer, _ := to.Try("GET token_sources/moved"); !strings.HasPrefix(answer, "-MOVED") {
		to = nodes[2]
	}
	id := to.Do(t, "CLUSTER MYID")
	for _, node := range nodes {
		node.Do(t, "CLUSTER SETSLOT "+slot+" NODE "+id)
	}
	must(t, s.Swap(t.Context(), "moved", nil, []byte("one")))
	want(t, s, "moved", "one")
}
