package acl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettingsOfTailscaleAreTakenAndWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		`"disableIPv4": true`:          "disableIPv4",
		`"randomizeClientPort": true`:  "randomizeClientPort",
		`"OneCGNATRoute": "mac-never"`: "OneCGNATRoute",
		`"derpMap": {"Regions": {"1": null, "900": {"RegionID": 900, "Nodes": [{"Name": "1", "HostName": "a.example.com"}]}}}`: "derpMap",
		`"derpMap": {"OmitDefaultRegions": true}`:                "derpMap",
		`"derpMap": {"omitDefaultRegions": true, "regions": {}}`: "derpMap",
		`"extraDNSRecords": [{"Name": "db.example.com", "Value": "100.64.0.7"}, {"name": "x", "type": "A", "value": "100.64.0.8"}]`: "extraDNSRecords",
		// what Picket does anyway needs no warning
		`"disableIPv4": false`: "", `"randomizeClientPort": false`: "", `"OneCGNATRoute": ""`: "", `"extraDNSRecords": []`: "",
	} {
		var got []string
		for _, w := range mustParse(t, "{"+text+"}").Warnings() {
			got = append(got, w.Message)
		}
		var message []string
		if want != "" {
			message = []string{"`" + want + "` has no effect: it is a setting of Tailscale, and Picket does not act on it"}
		}
		if diff := cmp.Diff(message, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
