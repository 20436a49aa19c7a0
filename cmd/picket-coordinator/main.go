// Picket-coordinator serves a Picket network, and is its operator's command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// version is set by the build (-ldflags "-X main.version=…").
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	arranged, err := cliflags.Arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "picket-coordinator: %v\n", err)
	var usage *cliflags.UsageError
	var misuse *usageError
	if errors.As(err, &usage) || errors.As(err, &misuse) {
		return exitUsage
	}
	return exitFailed
}

// usageError is a call that cannot be understood.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "picket-coordinator",
		Usage:                "serve a Picket network, and look after it",
		Version:              buildVersion(),
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		HideHelpCommand:      true,
		ExitErrHandler:       func(*cli.Context, error) {}, // run prints it
		Commands: []*cli.Command{
			serveCommand(),
			nodesCommand(),
			usersCommand(),
			keysCommand(),
			policyCommand(),
			auditCommand(),
			versionCommand(),
			completionCommand(),
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
