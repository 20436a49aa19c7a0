// Picket is the node agent and the user's command line.
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
	status := cliflags.Main(ctx, newApp(os.Stdin, os.Stdout, os.Stderr), os.Args)
	stop()
	os.Exit(status)
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:      "picket",
		Usage:     "join this machine to a Picket network, and see who may reach whom",
		UsageText: "picket COMMAND [FLAGS] [ARGUMENTS]",
		Description: "Start an agent, then join:\n\n" +
			"   sudo picket install\n" +
			"   sudo picket up --coordinator 'https://picket.example.com:8443#FINGERPRINT'\n\n" +
			"Exit status: 0 done, 1 failed or refused, 2 wrong use.",
		Version:              buildVersion(),
		Reader:               stdin,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		HideHelpCommand:      true,
		Commands: []*cli.Command{
			upCommand(), setCommand(), downCommand(), logoutCommand(), rotateCommand(),
			statusCommand(), peersCommand(), pingCommand(), ncCommand(), forwardCommand(), exposeCommand(), netcheckCommand(), whyCommand(), trustCommand(),
			flowsCommand(), denialsCommand(), captureCommand(), dnsCommand(),
			aclCommand(), runCommand(), installCommand(), uninstallCommand(),
			versionCommand(), cliflags.Completion("picket"),
		},
	}
}

// buildVersion is what the build set, else what the Go tool knows of the source.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return info.Main.Version
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: "Example:\n\n   picket version --json",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			return show(c, map[string]string{"version": c.App.Version}, func(w io.Writer) { fmt.Fprintln(w, c.App.Name, c.App.Version) })
		},
	}
}
