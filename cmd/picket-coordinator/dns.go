package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/dnsfile"
	"picket.internal/coordinator/opsocket"
	"picket.internal/coordinator/protocol"
)

func dnsCommand() *cli.Command {
	return &cli.Command{
		Name: "dns", Usage: "see and set what nodes are told about names", HideHelpCommand: true,
		Description: "Nodes resolve each other as NAME.DOMAIN (serve --domain) without any of this.\n\nExample:\n\n   picket-coordinator dns show",
		Subcommands: []*cli.Command{
			{Name: "show", Usage: "show the domain, nameservers, split domains, search domains and records", Flags: []cli.Flag{dirFlag(), jsonFlag()}, Action: showDNS,
				Description: "Examples:\n\n   picket-coordinator dns show\n   picket-coordinator dns show --json"},
			{Name: "set", Usage: "replace all of that but the domain by what a file says", Flags: append(waitFlags(), dirFlag(), jsonFlag(),
				&cli.StringFlag{Name: "file", Usage: "the `FILE`, JSON with comments; - for standard input"}), Action: setDNS,
				Description: "A node is told of no record and no nameserver at the address of another node that it has no flows with.\n\n" +
					"The file:\n\n   {\n     \"nameservers\": [\"tls://dns.example@192.0.2.54\"],\n     \"split\":       {\"corp.example\": [\"10.33.0.53\"]},\n" +
					"     \"search\":      [\"corp.example\"],\n     \"records\":     {\"git.corp.example\": [\"10.33.0.7\"], \"www.corp.example\": \"web-1.picket.internal\"},\n   }\n\n" +
					"Every part may be left out. Without nameservers each host's own ones are used.\n\nExample:\n\n   picket-coordinator dns set --file dns.hujson --wait"},
		},
	}
}

func showDNS(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	d, err := opsocket.DNSShow.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, d, func(w io.Writer) { writeDNS(w, d) })
}

func writeDNS(w io.Writer, d coordinator.DNSRow) {
	rows := [][]string{{"domain", "NAME." + d.Domain}}
	if len(d.Nameservers) > 0 {
		rows = append(rows, []string{"nameservers", nameservers(d.Nameservers)})
	} else {
		rows = append(rows, []string{"nameservers", "each host's own"})
	}
	for _, s := range d.Split {
		rows = append(rows, []string{"split", s.Domain + " by " + nameservers(s.Nameservers)})
	}
	if len(d.Search) > 0 {
		rows = append(rows, []string{"search", strings.Join(d.Search, ", ")})
	}
	for _, r := range d.Records {
		says := r.CNAME
		for _, a := range r.Addresses {
			says += " " + a.String()
		}
		rows = append(rows, []string{"record", r.Name + " is " + strings.TrimSpace(says)})
	}
	if d.By != "" {
		rows = append(rows, []string{"set", "by " + d.By + " at " + clock(d.Since)})
	}
	table(w, "WHAT|", rows)
}

func nameservers(list []protocol.Nameserver) string {
	var out []string
	for _, n := range list {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

func setDNS(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	path := c.String("file")
	if path == "" {
		return cliflags.Usage(c, "say with --file what is to be set")
	}
	text, err := readFile(path, c.App.Reader)
	if err != nil {
		return err
	}
	d, err := dnsfile.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	change, err := opsocket.DNSSet.Do(c.Context, client(c), d)
	if err != nil {
		return err
	}
	return report(c, change)
}

// readFile reads a file, or stdin for "-", as far as a dnsfile goes.
func readFile(path string, stdin io.Reader) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("the file cannot be read: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, dnsfile.MaxSize+1))
	if err != nil {
		return nil, errors.New("the file cannot be read")
	}
	return text, nil
}
