#!/bin/sh
# Runs every test, with the race detector where a C compiler is there, and says at the end what was skipped and why.
# PICKET_SOAK=10m makes the policy flip under load for that long.
set -u
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT INT TERM

race=
if command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1; then
	race=-race
	CGO_ENABLED=1
	export CGO_ENABLED
else
	echo 'no C compiler: the tests run without the race detector (apt-get install gcc)'
fi

for tool in git sshd wg nmap nc curl ping iperf3 chromium miniupnpd tinyproxy; do
	command -v "$tool" >/dev/null 2>&1 || [ -x "/usr/sbin/$tool" ] || echo "missing: $tool (tests that need it are skipped)"
done
[ "$(id -u)" = 0 ] || echo 'not root: tests that need namespaces and TUN devices are skipped'

# Under the detector everything takes ten to twenty times as long. What one goroutine does alone runs without it, and so do what it cannot bear
# and what is long in fake time and shows it nothing that another test does not.
alone='/acl(/|$)'
plain='^(TestRekeyLosesNoPacket|TestLease_lapsesAndComesBack|TestLease_renewed|TestCertificate_renewedAtHalfItsLife|TestForgedProbesCostNoPath|TestChangeDoesNotCostByTheNetwork|TestWhatIsFollowedIsWhatIsThere|TestTenThousandMaps|TestMemoryOfPermittedPeers)$'
status=0
if [ -n "$race" ]; then
	packages=$(${GO:-go} list ./... | grep -Ev "$alone") || exit 1
	${GO:-go} test -race -timeout 20m -json -skip "$plain" "$@" $packages >"$out" || status=1
	# What the detector's own runtime ended is run again, and the report says so; whether all is well the report then tells alone.
	broken=$(${GO:-go} run ./integration/testreport -broken <"$out") || exit 1
	if [ -n "$broken" ]; then
		status=0
		${GO:-go} test -race -timeout 20m -json -skip "$plain" "$@" $broken >>"$out" || status=1
	fi
	CGO_ENABLED=0 ${GO:-go} test -timeout 10m -json "$@" ./acl/... >>"$out" || status=1
	CGO_ENABLED=0 ${GO:-go} test -timeout 10m -json -run "$plain" ./coordinator ./node ./wgtun/... >>"$out" || status=1
else
	${GO:-go} test -timeout 20m -json "$@" ./... >"$out" || status=1
fi
${GO:-go} run ./integration/testreport <"$out"
report=$?
[ $status -eq 0 ] && [ $report -eq 0 ]
