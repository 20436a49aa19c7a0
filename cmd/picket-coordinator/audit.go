package main

import (
	"io"
	"strconv"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/opsocket"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name:            "audit",
		Usage:           "read the audit log",
		Description:     "Example:\n\n   picket-coordinator audit list",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list what was done, newest first", Action: listAudit,
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "limit", Value: 50, Usage: "at most `N` records"},
					&cli.Int64Flag{Name: "before", Usage: "only records older than number `SEQ`, to page on"},
					dirFlag(), jsonFlag(),
				},
				Description: "Example:\n\n   picket-coordinator audit list --limit 200 --json"},
		},
	}
}

func listAudit(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	if c.Int("limit") < 1 {
		return cliflags.Usage(c, "--limit must be at least 1")
	}
	records, err := opsocket.AuditList.Do(c.Context, client(c), opsocket.Page{Limit: c.Int("limit"), Before: c.Int64("before")})
	if err != nil {
		return err
	}
	return show(c, records, func(w io.Writer) {
		var rows [][]string
		for _, r := range records {
			rows = append(rows, []string{strconv.FormatInt(r.Seq, 10), clock(r.Time), r.Actor, dash(r.From), r.Action, r.Object, dash(r.Detail)})
		}
		table(w, "SEQ|TIME|WHO|FROM|ACTION|OBJECT|DETAIL", rows)
	})
}
