package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Every engine of a host gets one /22 of 10.87.0.0/16, Dagger's own default
// range: 64 engines of about 1000 containers each.
const (
	rangeSlots  = 64
	rangeFormat = "10.87.%d.0/22"
	rangeStep   = 4 // a /22 is four /24
)

const ipForward = "/proc/sys/net/ipv4/ip_forward"

// networkName returns what the engine names its bridge after: an interface
// name has at most 15 characters, and the engine appends a 0.
func networkName(engine string) string {
	sum := sha256.Sum256([]byte(engine))
	return "llc" + hex.EncodeToString(sum[:4])
}

func bridgeName(network string) string { return network + "0" }

// freeRange picks the first range that neither another engine nor the host
// uses.
func freeRange(records []*record, addrs []net.Addr) (string, error) {
	var used []netip.Prefix
	for _, r := range records {
		if p, err := netip.ParsePrefix(r.CIDR); err == nil {
			used = append(used, p)
		}
	}
	for _, addr := range addrs {
		if p, err := netip.ParsePrefix(addr.String()); err == nil {
			used = append(used, p.Masked())
		}
	}
	for slot := range rangeSlots {
		p := netip.MustParsePrefix(fmt.Sprintf(rangeFormat, slot*rangeStep))
		if !slices.ContainsFunc(used, p.Overlaps) {
			return p.String(), nil
		}
	}
	return "", errors.New("finding an address range for the engine's containers: all of 10.87.0.0/16 is in use")
}

// A baseline is what a network namespace was like before its first engine.
type baseline struct {
	IPForward string   `json:"ip_forward"`
	Tables    []string `json:"tables"` // of iptables
}

func readBaseline(ctx context.Context, netNS string) (baseline, error) {
	var b baseline
	err := inNetNS(netNS, func() error {
		data, err := os.ReadFile(ipForward)
		if err != nil {
			return err
		}
		b.IPForward = strings.TrimSpace(string(data))
		tables, err := iptablesSave(ctx)
		if err != nil {
			return err
		}
		for _, t := range tables {
			b.Tables = append(b.Tables, t.name)
		}
		return nil
	})
	if err != nil {
		return baseline{}, fmt.Errorf("reading the network's state: %w", err)
	}
	return b, nil
}

// cleanNetwork removes what an ended engine leaves in its network namespace.
// alone means that no other engine lives there: then what all engines share is
// restored to the baseline, too.
func (r *record) cleanNetwork(ctx context.Context, alone bool) error {
	id, err := netNSID(r.NetNS)
	if errors.Is(err, os.ErrNotExist) || err == nil && id != r.NetNSID {
		return nil // the kernel removed it all with the namespace
	}
	if err != nil {
		return err
	}
	err = inNetNS(r.NetNS, func() error {
		if err := deleteBridge(bridgeName(r.Network)); err != nil {
			return err
		}
		othersRoute, err := r.cleanFirewall(ctx, alone)
		if err != nil || !alone || othersRoute {
			return err
		}
		now, err := os.ReadFile(ipForward)
		if err != nil || strings.TrimSpace(string(now)) == r.Baseline.IPForward {
			return err
		}
		return os.WriteFile(ipForward, []byte(r.Baseline.IPForward+"\n"), 0o644)
	})
	if err != nil {
		return fmt.Errorf("cleaning up the network of engine %s: %w", r.Name, err)
	}
	return nil
}

// deleteBridge does without the ip command, which a bare host may lack.
func deleteBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	defer unix.Close(sock)
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	ifreq.SetUint16(0) // not up: only then a bridge can be deleted
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, ifreq); err != nil {
		return fmt.Errorf("taking bridge %s down: %w", name, err)
	}
	if err := bridgeIoctl(sock, unix.SIOCBRDELBR, name); err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	return nil
}

// bridgeIoctl makes or deletes a bridge.
func bridgeIoctl(sock int, request uintptr, name string) error {
	namep, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), request, uintptr(unsafe.Pointer(namep))); errno != 0 {
		return errno
	}
	return nil
}

// A table is one of iptables-save: its chains, and its rules in iptables'
// own syntax.
type table struct {
	name   string
	chains map[string]string // chain → policy, "-" for user-defined ones
	rules  []string
}

func parseIptablesSave(out string) []table {
	var tables []table
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "*") {
			tables = append(tables, table{name: line[1:], chains: map[string]string{}})
			continue
		}
		if len(tables) == 0 {
			continue
		}
		t := &tables[len(tables)-1]
		switch {
		case strings.HasPrefix(line, ":"):
			if fields := strings.Fields(line[1:]); len(fields) >= 2 {
				t.chains[fields[0]] = fields[1]
			}
		case strings.HasPrefix(line, "-A "):
			t.rules = append(t.rules, line)
		}
	}
	return tables
}

// empty reports whether the table does nothing.
func (t table) empty() bool {
	for _, policy := range t.chains {
		if policy != "ACCEPT" {
			return false
		}
	}
	return len(t.rules) == 0
}

var containerChain = regexp.MustCompile(`^CNI-[0-9a-f]{24}$`)

// unfinishedChains returns the chains of containers that hold no rule and that
// no rule leads to: CNI makes a chain, fills it and only then jumps to it, and
// an engine can be killed in between. Nothing identifies their owner.
func (t table) unfinishedChains() []string {
	var chains []string
	for chain := range t.chains {
		used := slices.ContainsFunc(t.rules, func(rule string) bool {
			return strings.HasPrefix(rule, "-A "+chain+" ") || strings.HasSuffix(rule, "-j "+chain)
		})
		if containerChain.MatchString(chain) && !used {
			chains = append(chains, chain)
		}
	}
	return chains
}

func iptablesSave(ctx context.Context) ([]table, error) {
	out, err := runTool(ctx, "", "iptables-save")
	if err != nil {
		return nil, err
	}
	return parseIptablesSave(out), nil
}

var ruleTarget = regexp.MustCompile(`-j (CNI-\S+)`)

// The chains that CNI's firewall plugin makes once for all networks.
const (
	forwardChain = "CNI-FORWARD"
	adminChain   = "CNI-ADMIN"
)

// cleanRules returns the iptables-restore script that removes a network's
// rules from the tables, and with shared also what all networks of CNI have in
// common. It is empty if there is nothing to remove.
func cleanRules(tables []table, network, cidr string, shared bool) (string, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", fmt.Errorf("reading the engine's address range: %w", err)
	}
	var script strings.Builder
	for _, t := range tables {
		var deletions, chains []string
		for _, rule := range t.rules {
			ofNetwork := strings.Contains(rule, `name: \"`+network+`\"`)
			ofCNI := strings.HasPrefix(rule, "-A "+forwardChain+" ") || strings.HasSuffix(rule, "-j "+forwardChain)
			switch {
			case ofNetwork && strings.HasPrefix(rule, "-A CNI-"):
				chains = append(chains, strings.Fields(rule)[1])
				continue // flushed with its chain
			case ofNetwork:
				if target := ruleTarget.FindStringSubmatch(rule); target != nil {
					chains = append(chains, target[1])
				}
			case strings.HasPrefix(rule, "-A "+forwardChain+" ") && ruleInRange(rule, prefix):
			case shared && ofCNI:
			default:
				continue
			}
			deletions = append(deletions, "-D"+strings.TrimPrefix(rule, "-A"))
		}
		if shared {
			for _, chain := range []string{forwardChain, adminChain} {
				if _, ok := t.chains[chain]; ok {
					chains = append(chains, chain)
				}
			}
			chains = append(chains, t.unfinishedChains()...)
		}
		slices.Sort(chains)
		chains = slices.Compact(chains)
		if len(deletions)+len(chains) == 0 {
			continue
		}
		fmt.Fprintf(&script, "*%s\n", t.name)
		for _, d := range deletions {
			fmt.Fprintln(&script, d)
		}
		for _, c := range chains {
			fmt.Fprintf(&script, "-F %s\n", c)
		}
		for _, c := range chains { // a chain that another one leads to cannot go
			fmt.Fprintf(&script, "-X %s\n", c)
		}
		fmt.Fprintln(&script, "COMMIT")
	}
	return script.String(), nil
}

// ruleInRange reports whether a rule is about one address of the range.
func ruleInRange(rule string, prefix netip.Prefix) bool {
	fields := strings.Fields(rule)
	for i, field := range fields[:len(fields)-1] {
		if field == "-s" || field == "-d" {
			if p, err := netip.ParsePrefix(fields[i+1]); err == nil && prefix.Contains(p.Addr()) {
				return true
			}
		}
	}
	return false
}

// cleanFirewall also reports whether other programs have added rules since the
// baseline: then forwarding no longer serves the engines alone.
func (r *record) cleanFirewall(ctx context.Context, alone bool) (othersRoute bool, err error) {
	tables, err := iptablesSave(ctx)
	if err != nil {
		return false, err
	}
	script, err := cleanRules(tables, r.Network, r.CIDR, alone && !sharedChainsUsed(tables, r))
	if err != nil {
		return false, err
	}
	if script != "" {
		if _, err := runTool(ctx, script, "iptables-restore", "--noflush"); err != nil {
			return false, err
		}
	}
	if !alone {
		return false, nil
	}
	// iptables makes a table with its first rule and never removes it.
	if tables, err = iptablesSave(ctx); err != nil {
		return false, err
	}
	version, err := runTool(ctx, "", "iptables", "--version")
	if err != nil {
		return false, err
	}
	for _, t := range tables {
		switch {
		case slices.Contains(r.Baseline.Tables, t.name):
		case !t.empty():
			othersRoute = true
		case strings.Contains(version, "nf_tables"): // legacy tables belong to the kernel
			if _, err := runTool(ctx, "", "nft", "delete", "table", "ip", t.name); err != nil {
				return false, err
			}
		}
	}
	return othersRoute, nil
}

// sharedChainsUsed reports whether CNI's shared chains serve a program other
// than these engines, such as podman: they existed before, or contain rules
// about other addresses.
func sharedChainsUsed(tables []table, r *record) bool {
	prefix, err := netip.ParsePrefix(r.CIDR)
	if err != nil {
		return true
	}
	for _, t := range tables {
		for _, rule := range t.rules {
			admin := strings.HasSuffix(rule, "-j "+adminChain)
			if strings.HasPrefix(rule, "-A "+adminChain+" ") ||
				strings.HasPrefix(rule, "-A "+forwardChain+" ") && !admin && !ruleInRange(rule, prefix) {
				return true
			}
		}
	}
	return false
}

// toolPath is where Debian keeps what root needs; a caller's PATH may lack it.
const toolPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookTool(name string) (string, error) {
	for _, dir := range filepath.SplitList(toolPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("looking for the program %s in %s: %w", name, toolPath, exec.ErrNotFound)
}

// runTool returns standard output. The program runs in the calling thread's
// network namespace.
func runTool(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := lookTool(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("running %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
