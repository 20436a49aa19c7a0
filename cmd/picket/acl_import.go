package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/acl/migrate"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclImportCommand() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "turn a policy of Tailscale or Headscale into one of Picket",
		ArgsUsage: "tailscale|headscale FILE",
		Description: "The policy goes to standard output or to --output, with its comments; what was left out is a comment in its place. What differs and " +
			"what was left out, and why, goes to standard error, each with its line of the original. Nothing that the original refuses is allowed.\n\n" +
			"A file without rules allows everything there and nothing here: see --keep-allow-all. Headscale's user names (alice@, or alice) need --domain.\n\n" +
			"Exit status: 0 imported, 2 the file cannot be imported, 1 failed.\n\nExamples:\n\n" +
			"   picket acl import tailscale acl.hujson -o policy.hujson\n" +
			"   picket acl import headscale acl.hujson --domain example.com -o policy.hujson\n" +
			"   picket acl import tailscale - <acl.hujson --format json | jq .notes",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the policy to `FILE`, which must not be there yet"},
			&cli.StringFlag{Name: "domain", Usage: "the `DOMAIN` of the logins that Headscale's user names become"},
			&cli.BoolFlag{Name: "keep-allow-all", Usage: "write out the rule that a file without rules implies"},
			formatFlag("text", "json"),
		},
		BashComplete: cliflags.Candidates(func(c *cli.Context) []string {
			if c.NArg() > 0 {
				return nil
			}
			return []string{string(migrate.Tailscale), string(migrate.Headscale)}
		}),
		Action: aclImport,
	}
}

// imported is what --format json prints.
type imported struct {
	Policy string         `json:"policy,omitempty"` // absent where --output has it
	Notes  []migrate.Note `json:"notes"`
}

func aclImport(c *cli.Context) error {
	if err := cliflags.NArgs(c, 2, 2, "tailscale|headscale FILE"); err != nil {
		return err
	}
	o := migrate.Options{Origin: migrate.Origin(c.Args().Get(0)), Domain: strings.ToLower(c.String("domain")), KeepAllowAll: c.Bool("keep-allow-all")}
	if o.Origin != migrate.Tailscale && o.Origin != migrate.Headscale {
		return cliflags.Usage(c, "%.40q is none of tailscale, headscale", c.Args().Get(0))
	}
	if o.Domain != "" && strings.Trim(o.Domain, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return cliflags.Usage(c, "--domain takes a domain such as example.com, not %.80q", o.Domain)
	}
	if o.Domain != "" && o.Origin == migrate.Tailscale {
		return cliflags.Usage(c, "--domain is for Headscale's user names: Tailscale's are logins already")
	}
	write, err := format(c, map[string]func(io.Writer, imported) error{
		"text": func(w io.Writer, r imported) error {
			for _, n := range r.Notes {
				fmt.Fprintln(c.App.ErrWriter, n)
			}
			_, err := io.WriteString(w, r.Policy)
			return err
		},
		"json": func(w io.Writer, r imported) error { return writeJSON(w, r) },
	})
	if err != nil {
		return err
	}
	path := c.Args().Get(1)
	text, err := readFile(c, path)
	if err != nil {
		return cli.Exit(err, cliflags.ExitUsage)
	}
	r, err := migrate.Import(text, o)
	if err != nil {
		return refused(c, fileName(path), err)
	}
	out := imported{string(r.Text), r.Notes}
	if file := c.String("output"); file != "" {
		if err := writeNew(file, r.Text); err != nil {
			return err
		}
		out.Policy = ""
	}
	return write(c.App.Writer, out)
}

// writeNew writes a file that is not there yet: a policy that is must not be lost by a mistyped name.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: choose another name, or remove it first", protocol.Printable(path))
	}
	if err != nil {
		return errors.New(protocol.Printable(err.Error()))
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return errors.New(protocol.Printable(err.Error()))
	}
	return nil
}
