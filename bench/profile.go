package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profiles takes a CPU profile of each contender over an extra round of
// closed-loop load, and an allocation profile at its end. It costs CPU itself,
// so no round that is compared is ever profiled.
func (c *comparison) profiles(ctx context.Context, m *meter, conns int) error {
	if c.profile == "" {
		return nil
	}
	if err := os.MkdirAll(c.profile, 0o755); err != nil {
		return err
	}
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { newClosedLoop(conns, clients(m.contenders), 0).run(loadCtx) })
	wait(ctx, m.warmup)

	errs := make([]error, len(m.contenders))
	var taking sync.WaitGroup
	for i, one := range m.contenders {
		taking.Go(func() { errs[i] = one.takeProfiles(ctx, c.profile, m.length) })
	}
	taking.Wait()
	cancel()
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	fmt.Println("profiles are in", c.profile)
	return nil
}

func (c *contender) takeProfiles(ctx context.Context, dir string, length time.Duration) error {
	seconds := max(1, int(length.Seconds()))
	for file, path := range map[string]string{
		"cpu":    fmt.Sprintf("profile?seconds=%d", seconds),
		"allocs": fmt.Sprintf("allocs?seconds=%d", seconds),
	} {
		if err := c.download(ctx, path, filepath.Join(dir, c.name+"."+file+".pprof")); err != nil {
			return fmt.Errorf("profiling %s: %w", c.name, err)
		}
	}
	return nil
}

func (c *contender) download(ctx context.Context, path, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.admin+"/debug/pprof/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, resp.Body); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
