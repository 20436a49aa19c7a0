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

// usageError is a flag's value that cannot be understood.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:  "picket-coordinator",
		Usage: "serve a Picket network, and look after it",
		Description: "Start a network, and let servers and people in:\n\n" +
			"   picket-coordinator serve --url https://picket.example.com:8443 \\\n      --policy-repo /srv/policy\n" +
			"   picket-coordinator users add bob@example.com\n" +
			"   picket-coordinator keys create --tag tag:db\n\n" +
			"Exit status: 0 done, 1 failed or refused, 2 wrong use.",
		Version:              buildVersion(),
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		HideHelpCommand:      true,
		Commands: []*cli.Command{
			serveCommand(),
			relayCommand(),
			nodesCommand(),
			usersCommand(),
			keysCommand(),
			tokensCommand(),
			relaysCommand(),
			clusterCommand(),
			policyCommand(),
			dnsCommand(),
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
		Name:        "version",
		Usage:       "print the version",
		Description: "Example:\n\n   picket-coordinator version --json",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			return show(c, map[string]string{"version": buildVersion()}, func(w io.Writer) {
				fmt.Fprintf(w, "picket-coordinator %s\n", buildVersion())
			})
		},
	}
}
