// Picket-coordinator serves a Picket network, and is its operator's command line.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := cliflags.Main(ctx, newApp(os.Stdout, os.Stderr), os.Args)
	stop()
	os.Exit(status)
}

// usageError is a call that cannot be understood.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

// ExitCode makes it a cli.ExitCoder.
func (e *usageError) ExitCode() int { return cliflags.ExitUsage }

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "picket-coordinator",
		Usage:                "serve a Picket network, and look after it",
		Version:              buildVersion(),
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		HideHelpCommand:      true,
		Commands: []*cli.Command{
			serveCommand(),
			nodesCommand(),
			usersCommand(),
			keysCommand(),
			policyCommand(),
			auditCommand(),
			versionCommand(),
			cliflags.Completion("picket-coordinator"),
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "dev-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "dev"
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			return show(c, map[string]string{"version": buildVersion()}, func(w io.Writer) {
				fmt.Fprintf(w, "picket-coordinator %s\n", buildVersion())
			})
		},
	}
}
