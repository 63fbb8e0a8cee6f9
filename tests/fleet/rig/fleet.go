// Package rig runs fleets of Caddies in processes of their own, loads them, watches what they store, and tells what
// happened when.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// Plan says what fleet is wanted.
type Plan struct {
	// Program is a Caddy with the module.
	Program string
	// Dir is where all of it lives. Short: sockets' names must not be long.
	Dir string
	// Replicas is how many.
	Replicas int
	// Provider is who gives tokens.
	Provider *provider.Server
	// Grant is refresh_token, with one seed for all, or authorization_code: then somebody must Authorize.
	Grant string
	// Ahead is the option refresh_ahead: 75%.
	Ahead string
	// Store gives the lines of the global options that say where replica i keeps its tokens. Default: one folder for
	// all, Storage.
	Store func(i int) string
}

// Fleet is a running fleet.
type Fleet struct {
	Plan
	Replicas []*Replica
}

const caddyfile = `{
	admin "unix/THE_HOME/admin"
	persist_config off
	auto_https off
	metrics
	log {
		output stdout
		format json
	}
	{{.Store}}
	token_source fleet {
		grant {{.Grant}} {
			token_url {{.URL}}/token
			client_id {{.ClientID}}
			client_secret {env.FLEET_SECRET}
			header {{.Who}} {{.Name}}
			{{- if eq .Grant "refresh_token"}}
			refresh_token {env.FLEET_SEED}
			{{- else}}
			redirect_uri {{.RedirectURI}}
			{{- end}}
		}
		refresh_ahead {{.Ahead}}
	}
}

http://localhost {
	bind "unix/THE_HOME/site"
	handle /metrics {
		metrics
	}
	{{- if ne .Grant "refresh_token"}}
	handle /tokens/* {
		token_login fleet
	}
	{{- end}}
	handle {
		reverse_proxy {{.URL}} {
			transport bearer fleet
		}
	}
}
`

var caddyfileTemplate = template.Must(template.New("Caddyfile").Parse(caddyfile))

// Storage is the folder that the replicas share, if they share one.
func (p *Plan) Storage() string { return filepath.Join(p.Dir, "storage") }

// Launch starts a fleet, all replicas at once.
func Launch(ctx context.Context, p Plan) (*Fleet, error) {
	f := &Fleet{Plan: p}
	seed := p.Provider.NewRefreshToken("person")
	for i := range p.Replicas {
		r, err := f.newReplica(i, seed)
		if err != nil {
			return nil, err
		}
		f.Replicas = append(f.Replicas, r)
	}
	errs := make([]error, len(f.Replicas))
	var wg sync.WaitGroup
	for i, r := range f.Replicas {
		wg.Go(func() { errs[i] = r.Start(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	return f, nil
}

func (f *Fleet) newReplica(i int, seed string) (*Replica, error) {
	name := fmt.Sprintf("r%02d", i+1)
	store := fmt.Sprintf("storage file_system {\n\t\troot %q\n\t}", f.Storage())
	if f.Store != nil {
		store = f.Store(i)
	}
	var text strings.Builder
	err := caddyfileTemplate.Execute(&text, map[string]string{
		"Store": store, "Grant": f.Grant, "URL": f.Provider.URL, "ClientID": f.Provider.ClientID,
		"Who": provider.Who, "Name": name, "RedirectURI": f.Provider.RedirectURI, "Ahead": f.Ahead,
	})
	if err != nil {
		return nil, err
	}
	env := []string{"FLEET_SECRET=" + f.Provider.ClientSecret, "FLEET_SEED=" + seed}
	return NewReplica(f.Program, filepath.Join(f.Dir, name), name, env, text.String())
}

// Stop ends all replicas.
func (f *Fleet) Stop() error {
	errs := make([]error, len(f.Replicas))
	var wg sync.WaitGroup
	for i, r := range f.Replicas {
		wg.Go(func() { errs[i] = r.Stop() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Replica finds a replica by its name; nil: there is none.
func (f *Fleet) Replica(name string) *Replica {
	for _, r := range f.Replicas {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Build builds a Caddy with the module into a folder.
func Build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "caddy")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/caddy-bearer/caddy-bearer/tests/testcaddy")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return program, nil
}
