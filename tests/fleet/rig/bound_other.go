//go:build !linux

package rig

import "os/exec"

func startBound(cmd *exec.Cmd) error { return cmd.Start() }
