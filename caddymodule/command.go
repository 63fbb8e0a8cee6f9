package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "token",
		Usage: "env | run | intercepted",
		Short: "Helps apps and people to use token sources",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(envCommand(), runCommand(), interceptedCommand())
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return fmt.Errorf("unknown command %q: expected env, run or intercepted", args[0])
				}
				return cmd.Help()
			}
		},
	})
}

// adminFlags say where the running Caddy's admin endpoint is, as for caddy reload.
type adminFlags struct{ address, config, adapter string }

func (f *adminFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "address", "", "Address of the admin endpoint, such as unix//run/caddy/admin.sock")
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "Config file whose admin address is used [./Caddyfile, if it is there]")
	cmd.Flags().StringVarP(&f.adapter, "adapter", "a", "", "Config adapter of that file")
}

// get asks the admin endpoint, and reads its JSON into v.
func (f *adminFlags) get(path string, v any) error {
	config := f.config
	if _, err := os.Stat("Caddyfile"); config == "" && f.address == "" && err == nil {
		config = "Caddyfile"
	}
	address, err := caddycmd.DetermineAdminAPIAddress(f.address, nil, config, f.adapter)
	if err != nil {
		return err
	}
	res, err := caddycmd.AdminAPIRequest(address, http.MethodGet, path, nil, nil)
	if err != nil {
		return fmt.Errorf("asking Caddy at %s: %w: expected a running Caddy, whose admin address --address or --config gives", address, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("asking Caddy at %s: %w", address, err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("reading what Caddy at %s answers to %s: %w", address, path, err)
	}
	return nil
}

var errNoIntercept = errors.New("the running Caddy has no bearer_intercept: expected one in its config, or --proxy with its address")
