package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// handshakes measures the TLS handshakes of bearer_intercept: the first with each host,
// for which a certificate is made; the second, which resumes the session; and the first
// after a restart, when the certificates come from the storage.
func handshakes(ctx context.Context, args []string) error {
	var l lab
	fs := flag.NewFlagSet("handshakes", flag.ContinueOnError)
	l.flags(fs)
	hosts := fs.Int("hosts", 1000, "hosts to call")
	most := fs.Duration("max-first", 20*time.Millisecond, "the most that the median of the first handshakes may take")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := l.open(); err != nil {
		return err
	}
	defer l.close()
	if err := l.build(ctx, true); err != nil {
		return err
	}
	config := filepath.Join(l.dir, "caddyfile")
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	storage := filepath.Join(l.dir, "storage")
	text := fmt.Sprintf(handshakesCaddyfile, storage, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	sessions := tls.NewLRUClientSessionCache(*hosts)
	fmt.Printf("%d hosts, one after another; core %d, GOMAXPROCS=1\n\n%-44s%10s%10s%10s%10s\n", *hosts, l.proxyCore, "", "p50 ms", "p99 ms", "max ms", "resumed")
	var first time.Duration
	for _, phase := range []struct {
		name  string
		start bool
	}{{"first handshake: a certificate is made", true}, {"second handshake: the session is resumed", false}, {"after a restart: certificates of the storage", true}} {
		if phase.start {
			l.stopAll()
			p, err := l.start("intercept", l.sidecar, []string{"run", "--adapter", "caddyfile", "--config", config}, l.proxyCore, nil)
			if err != nil {
				return err
			}
			if err := p.listening(ctx, addr); err != nil {
				return err
			}
		}
		took, resumed, err := handshakeAll(ctx, addr, *hosts, sessions)
		if err != nil {
			return err
		}
		slices.Sort(took)
		at := func(share float64) float64 { return micros(took[int(share*float64(len(took)-1))]) / 1000 }
		fmt.Printf("%-44s%10.2f%10.2f%10.2f%10d\n", phase.name, at(.5), at(.99), at(1), resumed)
		if first == 0 {
			first = took[len(took)/2]
		}
		if !phase.start && resumed != *hosts {
			return fmt.Errorf("%d of %d sessions were resumed", resumed, *hosts)
		}
		if phase.start && resumed != 0 {
			sessions = tls.NewLRUClientSessionCache(*hosts)
		}
	}
	if first > *most {
		return fmt.Errorf("the first handshakes took %v (p50): at most %v is wanted", first, *most)
	}
	return nil
}

const handshakesCaddyfile = `{
	admin off
	persist_config off
	default_bind 127.0.0.1
	skip_install_trust
	storage file_system %s
	token_source bench {
		grant client_credentials {
			token_url http://127.0.0.1:1/token
			client_id none
			client_secret none
		}
		lazy
	}
}
http://:%s {
	bearer_intercept {
		*.provider.example bench
	}
}
`

func handshakeAll(ctx context.Context, proxy string, hosts int, sessions tls.ClientSessionCache) (took []time.Duration, resumed int, err error) {
	for i := range hosts {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		d, again, err := handshake(proxy, fmt.Sprintf("h%d.provider.example", i), sessions)
		if err != nil {
			return nil, 0, err
		}
		took = append(took, d)
		if again {
			resumed++
		}
	}
	return took, resumed, nil
}

// handshake does one, and makes one request in it, which the sidecar refuses by itself:
// after its answer the session's ticket has come.
func handshake(proxy, host string, sessions tls.ClientSessionCache) (took time.Duration, resumed bool, err error) {
	over, err := openTunnel(proxy, host+":443", &tls.Config{ServerName: host, ClientSessionCache: sessions})
	if err != nil {
		return 0, false, err
	}
	defer over.Close()
	before := time.Now()
	if err := over.Handshake(); err != nil {
		return 0, false, err
	}
	took = time.Since(before)
	if _, err := io.WriteString(over, "TRACE / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		return 0, false, err
	}
	refused, err := http.ReadResponse(bufio.NewReader(over), nil)
	if err != nil {
		return 0, false, err
	}
	_, err = io.Copy(io.Discard, refused.Body)
	return took, over.ConnectionState().DidResume, err
}
