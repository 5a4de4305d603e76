package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/bundle"
	"github.com/layerfs/layerfs/runtime/network"
	"github.com/layerfs/layerfs/runtime/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// createOptions are the flags of create and run, named as Docker names them.
type createOptions struct {
	driver      string
	name        string
	remove      bool
	interactive bool
	terminal    bool
	restart     string
	runtime     string
	init        bool
	labels      []string
	annotations []string
	cidfile     string

	entrypoint string
	env        []string
	envFiles   []string
	workdir    string
	user       string
	ulimits    []string

	hostname string
	readOnly bool

	privileged bool
	groups     []string
	oomScore   int
	userns     string
	pid        string
	ipc        string
	uts        string
	pull       string
	aliases    []string

	capAdd   []string
	capDrop  []string
	security []string
	sysctls  []string
	volumes  []string
	mounts   []string
	tmpfs    []string
	devices  []string
	shmSize  string

	networks, ports, expose    []string
	dns, dnsSearch, dnsOptions []string
	hosts, links               []string
	publishAll                 bool
	resources                  resourceFlags

	stopSignal  string
	stopTimeout int
	health      healthFlags
	logDriver   string
	logOpts     []string

	flags    *pflag.FlagSet // to see what was given
	detached bool           // it outlives the command that makes it
}

type healthFlags struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
	none                                          bool
}

func (o *createOptions) add(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	o.flags = f
	f.SetInterspersed(false) // flags after the image are the command's
	a.ownShorthand(cmd)
	f.Bool("help", false, "explain the command") // -h is the host name
	addDriverFlag(cmd, &o.driver)
	f.StringVar(&o.name, "name", "", "name of the container (default: made up)")
	f.BoolVar(&o.remove, "rm", false, "remove the container when it has ended")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&o.terminal, "tty", "t", false, "give it a terminal")
	f.StringVar(&o.restart, "restart", "no", "when to start it again: no, on-failure[:N], always, unless-stopped")
	f.StringVar(&o.runtime, "runtime", "", "OCI runtime to run it with, such as crun, runc or a path (default: the built-in launcher)")
	f.BoolVar(&o.init, "init", false, "run a small init that reaps processes and passes signals on")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "label of the container, KEY=VALUE (repeatable)")
	f.StringArrayVar(&o.annotations, "annotation", nil, "annotation of the OCI specification, KEY=VALUE (repeatable)")
	f.StringVar(&o.cidfile, "cidfile", "", "write the container's id to this file, which must not exist")

	f.StringVar(&o.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment variable, NAME=VALUE or NAME to pass on (repeatable)")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "file of environment variables, one a line (repeatable)")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory")
	f.StringVarP(&o.user, "user", "u", "", "user and group, NAME|UID[:GROUP|GID]")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "resource limit, NAME=SOFT[:HARD] (repeatable)")

	f.StringVarP(&o.hostname, "hostname", "h", "", "host name (default: the beginning of the id)")
	f.BoolVar(&o.readOnly, "read-only", false, "make the root file system read-only")
	f.StringSliceVar(&o.capAdd, "cap-add", nil, "capability to add to the default ones, or ALL (repeatable)")
	f.StringSliceVar(&o.capDrop, "cap-drop", nil, "capability to take away, or ALL (repeatable)")
	f.StringArrayVar(&o.security, "security-opt", nil, "no-new-privileges[=false], seccomp=FILE|unconfined, apparmor=PROFILE|unconfined or label=disable|user:…|role:…|type:…|level:… (repeatable)")
	f.BoolVar(&o.privileged, "privileged", false, "give it all capabilities, system calls and devices, and writable /sys and /proc/sys")
	f.StringSliceVar(&o.groups, "group-add", nil, "group by number to be in besides the user's (repeatable)")
	f.IntVar(&o.oomScore, "oom-score-adj", 0, "how soon the kernel kills it when memory runs out, -1000 to 1000")
	f.StringVar(&o.userns, "userns", "", "user namespace: host, the one that the command runs in, is all that there is")
	f.StringVar(&o.pid, "pid", "", "processes that it sees: host or container:NAME (default: its own)")
	f.StringVar(&o.ipc, "ipc", "private", "inter-process communication: private, none (private, without /dev/shm) or host")
	f.StringVar(&o.uts, "uts", "", "host name: host is this machine's (default: its own)")
	f.StringVar(&o.pull, "pull", "missing", "never or missing: images are loaded, and not pulled to run")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "setting of the kernel, NAME=VALUE (repeatable)")
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "mount a volume or a directory, [NAME|PATH:]TARGET[:OPTION,...] (repeatable)")
	f.StringArrayVar(&o.mounts, "mount", nil, "mount, type=bind|volume|tmpfs,source=…,target=…[,readonly,…] (repeatable)")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "mount memory, TARGET[:OPTION,...] (repeatable)")
	f.StringArrayVar(&o.devices, "device", nil, "device of this machine, PATH[:TARGET][:ACCESS], of which ACCESS is of rwm (repeatable)")
	f.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm, in bytes or with k, m, g (default 64m)")

	f.StringArrayVar(&o.networks, "network", nil, "network: bridge, none, host, container:NAME or the name of one (repeatable)")
	f.StringArrayVar(&o.aliases, "network-alias", nil, "one more name of it in its network (repeatable)")
	f.StringArrayVarP(&o.ports, "publish", "p", nil, "publish a port on this machine, [[IP:][PORT]:]PORT[/udp] (repeatable)")
	f.BoolVarP(&o.publishAll, "publish-all", "P", false, "publish all ports that are exposed, each on a free one")
	f.StringArrayVar(&o.expose, "expose", nil, "say that a port is served, PORT[/udp] (repeatable)")
	f.StringArrayVar(&o.dns, "dns", nil, "name server (repeatable)")
	f.StringArrayVar(&o.dnsSearch, "dns-search", nil, "domain in which names are looked up (repeatable)")
	f.StringArrayVar(&o.dnsOptions, "dns-option", nil, "option of resolv.conf (repeatable)")
	f.StringArrayVar(&o.hosts, "add-host", nil, "line of /etc/hosts, NAME:IP (repeatable)")
	f.StringArrayVar(&o.links, "link", nil, "name for another container, CONTAINER[:ALIAS] (repeatable)")
	o.resources.add(f)

	f.StringVar(&o.stopSignal, "stop-signal", "", "signal that asks it to end (default: the image's, else SIGTERM)")
	f.IntVar(&o.stopTimeout, "stop-timeout", container.DefaultStopTimeout, "seconds that it has to end; negative: any")
	f.StringVar(&o.health.cmd, "health-cmd", "", "shell command that checks its health")
	f.DurationVar(&o.health.interval, "health-interval", 0, "time between checks (default 30s)")
	f.DurationVar(&o.health.timeout, "health-timeout", 0, "time that a check may take (default 30s)")
	f.DurationVar(&o.health.startPeriod, "health-start-period", 0, "time in which failures do not count")
	f.DurationVar(&o.health.startInterval, "health-start-interval", 0, "time between checks in that time (default 5s)")
	f.IntVar(&o.health.retries, "health-retries", 0, "failures in a row that make it unhealthy (default 3)")
	f.BoolVar(&o.health.none, "no-healthcheck", false, "do not check its health, whatever the image says")
	f.StringVar(&o.logDriver, "log-driver", container.LogJSON, "where its output is kept: json-file, none")
	f.StringArrayVar(&o.logOpts, "log-opt", nil, "max-size, max-file, mode=blocking|non-blocking or max-buffer-size, NAME=VALUE (repeatable)")
	words := map[string][]string{
		"restart": {"no", "on-failure", "always", "unless-stopped"}, "log-driver": {container.LogJSON, container.LogNone},
	}
	for name, list := range words {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)))
	}
}

// record is what the image says of a container and what the flags say instead.
func (o *createOptions) record(img *image.Config, command []string) (*container.Record, error) {
	p := img.Config
	rec := &container.Record{ID: container.NewID(), Name: o.name, Driver: o.driver, Cwd: p.WorkingDir, User: p.User,
		Terminal: o.terminal, Stdin: o.interactive, Init: o.init, Hostname: o.hostname, ReadOnly: o.readOnly, Remove: o.remove,
		StopSignal: p.StopSignal, StopTimeout: p.StopTimeout, CapAdd: o.capAdd, CapDrop: o.capDrop, NoNewPrivileges: true}
	steps := []func(*container.Record) error{
		func(rec *container.Record) error { return o.process(rec, p, command) },
		o.life,
		func(rec *container.Record) error { return o.healthOf(rec, p.Healthcheck) },
		o.isolation,
		func(rec *container.Record) error { return o.mountsOf(rec, p.Volumes) },
		func(rec *container.Record) error { return o.connect(rec, p.ExposedPorts) },
		o.limits,
		o.logging,
	}
	for _, step := range steps {
		if err := step(rec); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

// process says what is run.
func (o *createOptions) process(rec *container.Record, p image.ProcessConfig, command []string) error {
	rec.Env = slices.Clone(p.Env)
	for _, name := range o.envFiles {
		vars, err := readEnvFile(name)
		if err != nil {
			return err
		}
		rec.Env = append(rec.Env, vars...)
	}
	for _, e := range o.env {
		v, ok, err := envArg(e)
		if err != nil {
			return err
		}
		if ok {
			rec.Env = append(rec.Env, v)
		}
	}
	rec.Entrypoint, rec.Command = []string(p.Entrypoint), []string(p.Cmd)
	if o.flags.Changed("entrypoint") {
		rec.Entrypoint, rec.Command = nil, nil
		if o.entrypoint != "" {
			rec.Entrypoint = []string{o.entrypoint}
		}
	}
	if len(command) > 0 {
		rec.Command = command
	}
	if len(rec.Entrypoint)+len(rec.Command) == 0 {
		return usageError{errors.New("the image names no command; give one")}
	}
	if o.workdir != "" {
		if !path.IsAbs(o.workdir) {
			return usageError{fmt.Errorf("--workdir %q: want an absolute path", o.workdir)}
		}
		rec.Cwd = o.workdir
	}
	if o.user != "" {
		rec.User = o.user
	}
	for _, u := range o.ulimits {
		l, err := parseUlimit(u)
		if err != nil {
			return err
		}
		rec.Rlimits = append(rec.Rlimits, l)
	}
	return nil
}

// readEnvFile reads NAME=VALUE lines as docker run --env-file does: blank lines and
// those that begin with '#' are passed over, NAME alone is passed on from here.
func readEnvFile(name string) (_ []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer join(&err, f.Close)
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		v, ok, err := envArg(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if ok {
			out = append(out, v)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return out, nil
}

// parseUlimit reads NAME=SOFT[:HARD]; -1 is no limit.
func parseUlimit(s string) (specs.POSIXRlimit, error) {
	name, values, ok := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	number := func(s string) (uint64, error) {
		if s == "-1" || s == "unlimited" {
			return math.MaxUint64, nil
		}
		return strconv.ParseUint(s, 10, 63)
	}
	lo, err1 := number(soft)
	hi, err2 := number(hard)
	if !ok || name == "" || err1 != nil || err2 != nil || lo > hi {
		return specs.POSIXRlimit{}, usageError{fmt.Errorf("--ulimit %q: want NAME=SOFT[:HARD], such as nofile=1024:4096", s)}
	}
	return specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: lo, Hard: hi}, nil
}

// life says how it ends and begins again.
func (o *createOptions) life(rec *container.Record) (err error) {
	if rec.Labels, err = parseLabels(o.labels); err != nil {
		return err
	}
	if rec.Annotations, err = parseLabels(o.annotations); err != nil {
		return err
	}
	if rec.Restart, err = container.ParseRestartPolicy(o.restart); err != nil {
		return usageError{err}
	}
	if rec.Remove && rec.Restart.Mode != container.RestartNo {
		return usageError{errors.New("--rm and --restart exclude each other")}
	}
	if rec.Runtime, err = findRuntime(o.runtime); err != nil {
		return err
	}
	if o.stopSignal != "" {
		rec.StopSignal = o.stopSignal
	}
	if rec.StopSignal != "" {
		if _, err := parseSignal(rec.StopSignal); err != nil {
			return err
		}
	}
	if o.flags.Changed("stop-timeout") {
		rec.StopTimeout = &o.stopTimeout
	}
	return nil
}

func (o *createOptions) healthOf(rec *container.Record, h *image.Healthcheck) error {
	f := o.health
	changed := f.cmd != "" || f.interval != 0 || f.timeout != 0 || f.startPeriod != 0 || f.startInterval != 0 || f.retries != 0
	if f.none {
		if changed {
			return usageError{errors.New("--no-healthcheck and --health-… exclude each other")}
		}
		return nil
	}
	out := container.Health{}
	if h != nil {
		out = container.Health{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	}
	if f.cmd != "" {
		out.Test = []string{"CMD-SHELL", f.cmd}
	}
	for _, d := range []struct{ flag, field *time.Duration }{
		{&f.interval, &out.Interval}, {&f.timeout, &out.Timeout}, {&f.startPeriod, &out.StartPeriod}, {&f.startInterval, &out.StartInterval},
	} {
		if *d.flag < 0 {
			return usageError{fmt.Errorf("--health-…: a time of %s", *d.flag)}
		}
		if *d.flag != 0 {
			*d.field = *d.flag
		}
	}
	if f.retries < 0 {
		return usageError{errors.New("--health-retries: less than 0")}
	}
	if f.retries > 0 {
		out.Retries = f.retries
	}
	if len(out.Test) == 0 || out.Test[0] == "NONE" {
		return nil
	}
	switch out.Test[0] {
	case "CMD":
		out.Test = out.Test[1:]
	case "CMD-SHELL":
		out.Test = append([]string{"/bin/sh", "-c"}, out.Test[1:]...)
	default:
		return fmt.Errorf("health check of the image begins with %q, want NONE, CMD or CMD-SHELL: %w", out.Test[0], fs.ErrInvalid)
	}
	if len(out.Test) == 0 {
		return nil
	}
	rec.Health = &out
	return nil
}

func (o *createOptions) isolation(rec *container.Record) (err error) {
	switch o.userns {
	case "", "host":
	default:
		return usageError{fmt.Errorf("--userns %q: only host is supported; for containers in a user namespace run layerfs as an ordinary user", o.userns)}
	}
	if err := o.share(rec); err != nil {
		return err
	}
	switch o.pull {
	case "missing", "never":
	default:
		return usageError{fmt.Errorf("--pull %q: want missing or never; layerfs load -i brings newer images in", o.pull)}
	}
	if rec.Privileged = o.privileged; rec.Privileged {
		rec.Seccomp, rec.NoNewPrivileges = bundle.Unconfined, false
	}
	for _, g := range o.groups {
		gid, err := strconv.ParseUint(g, 10, 31)
		if err != nil {
			return usageError{fmt.Errorf("--group-add %q: want the number of a group", g)}
		}
		rec.Groups = append(rec.Groups, uint32(gid))
	}
	const most = 1000
	if o.oomScore < -most || o.oomScore > most {
		return usageError{fmt.Errorf("--oom-score-adj %d: want a number from -%d to %d", o.oomScore, most, most)}
	}
	if o.flags.Changed("oom-score-adj") {
		rec.OOMScoreAdj = &o.oomScore
	}
	if rec.Sysctls, err = parseLabels(o.sysctls); err != nil {
		return err
	}
	if _, err := bundle.ChangeCapabilities(nil, o.capAdd, o.capDrop); err != nil {
		return usageError{err}
	}
	for _, s := range o.security {
		name, value, set := strings.Cut(s, "=")
		if colon := strings.IndexByte(s, ':'); !set || colon >= 0 && colon < len(name) {
			name, value, set = strings.Cut(s, ":") // Docker's older form
		}
		switch name {
		case "no-new-privileges":
		case "seccomp":
			if rec.Seccomp, err = readProfile(value); err != nil {
				return err
			}
			continue
		case "apparmor":
			if value == "" {
				return usageError{fmt.Errorf("--security-opt %q: want the name of a profile, or unconfined", s)}
			}
			rec.AppArmor = value
			continue
		case "label":
			if rec.SELinux, err = bundle.AddLabel(rec.SELinux, value); err != nil {
				return usageError{fmt.Errorf("--security-opt %q: %w", s, err)}
			}
			continue
		default:
			return usageError{fmt.Errorf("--security-opt %q: want no-new-privileges[=false], seccomp=FILE|unconfined, apparmor=PROFILE or label=OPTION", s)}
		}
		if rec.NoNewPrivileges = true; set {
			if rec.NoNewPrivileges, err = strconv.ParseBool(value); err != nil {
				return usageError{fmt.Errorf("--security-opt %q: want true or false", s)}
			}
		}
	}
	if o.shmSize != "" {
		if rec.ShmSize, err = parseBytes(o.shmSize); err != nil || rec.ShmSize <= 0 {
			return usageError{fmt.Errorf("--shm-size %q: want a size such as 64m", o.shmSize)}
		}
	}
	for _, d := range o.devices {
		dev, err := parseDevice(d)
		if err != nil {
			return err
		}
		rec.Devices = append(rec.Devices, dev)
	}
	return nil
}

// parseDevice reads PATH[:TARGET][:ACCESS].
func parseDevice(text string) (container.Device, error) {
	parts := strings.Split(text, ":")
	dev := container.Device{Source: parts[0], Target: parts[0], Access: "rwm"}
	isAccess := func(s string) bool { return s != "" && strings.Trim(s, "rwm") == "" }
	rest := parts[1:]
	if n := len(rest); n > 0 && isAccess(rest[n-1]) {
		dev.Access, rest = rest[n-1], rest[:n-1]
	}
	if len(rest) > 0 {
		dev.Target, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 || !path.IsAbs(dev.Source) || !path.IsAbs(dev.Target) {
		return dev, usageError{fmt.Errorf("--device %q: want PATH[:TARGET][:ACCESS], of which ACCESS is of rwm", text)}
	}
	return dev, nil
}

// readProfile reads a profile of system calls, which becomes a part of the record: the
// container is as it was made when the file is another one by then.
func readProfile(name string) (_ string, err error) {
	const most = 1 << 20
	if name == bundle.Unconfined {
		return name, nil
	}
	if name == "" {
		return "", usageError{errors.New("--security-opt seccomp: want seccomp=FILE or seccomp=unconfined")}
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer join(&err, f.Close)
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	if len(data) > most {
		return "", fmt.Errorf("profile %s of more than %d bytes: %w", name, most, fs.ErrInvalid)
	}
	if _, err := seccomp.Load(data, nil); err != nil {
		return "", fmt.Errorf("profile %s: %w", name, err)
	}
	return string(data), nil
}

// connect says what its network is.
func (o *createOptions) connect(rec *container.Record, declared map[string]struct{}) error {
	networks := slices.Clone(o.networks)
	if len(o.aliases) > 0 {
		if len(networks) != 1 || strings.Contains(networks[0], "alias=") {
			return usageError{errors.New("--network-alias takes one --network; with several give each its own, as name=NETWORK,alias=NAME")}
		}
		if !strings.Contains(networks[0], "=") {
			networks[0] = "name=" + networks[0]
		}
		networks[0] += ",alias=" + strings.Join(o.aliases, ",alias=")
	}
	rec.Networks, rec.Ports, rec.Hosts, rec.Links = networks, o.ports, o.hosts, o.links
	rec.DNS, rec.DNSSearch, rec.DNSOptions = o.dns, o.dnsSearch, o.dnsOptions
	exposed := map[string]string{}
	for p := range declared {
		exposed[p] = ""
	}
	for _, p := range o.expose {
		exposed[p] = ""
	}
	for _, p := range sortedKeys(exposed) {
		if _, err := network.ParsePorts(p); err != nil {
			return usageError{fmt.Errorf("exposed port: %w", err)}
		}
		rec.Exposed = append(rec.Exposed, p)
		if o.publishAll {
			rec.Ports = append(rec.Ports, p)
		}
	}
	choice, err := network.ParseNetwork(rec.Networks)
	if err == nil {
		_, err = networkRequest(rec, choice)
	}
	if err != nil {
		return usageError{err}
	}
	if choice.Mode == network.ModeNone && len(rec.Ports) > 0 {
		return usageError{errors.New("--network none and --publish exclude each other")}
	}
	return nil
}

func (o *createOptions) limits(rec *container.Record) error {
	var r specs.LinuxResources
	if err := o.resources.apply(&r); err != nil {
		return err
	}
	if r.CPU != nil || r.Memory != nil || r.Pids != nil || r.BlockIO != nil {
		rec.Resources = &r
	}
	return nil
}

func (o *createOptions) logging(rec *container.Record) error {
	rec.Log.Driver = o.logDriver
	switch o.logDriver {
	case container.LogJSON, container.LogNone:
	default:
		return usageError{fmt.Errorf("--log-driver %q: want json-file or none", o.logDriver)}
	}
	for _, opt := range o.logOpts {
		name, value, _ := strings.Cut(opt, "=")
		var err error
		switch name {
		case "max-size":
			rec.Log.MaxSize, err = parseBytes(value)
		case "max-file":
			rec.Log.MaxFiles, err = strconv.Atoi(value)
			if err == nil && rec.Log.MaxFiles < 1 {
				err = fs.ErrInvalid
			}
		case "mode":
			rec.Log.NonBlocking = value == "non-blocking"
			if value != "non-blocking" && value != "blocking" {
				err = fs.ErrInvalid
			}
		case "max-buffer-size":
			rec.Log.BufferSize, err = parseBytes(value)
		default:
			return usageError{fmt.Errorf("--log-opt %q: want max-size, max-file, mode or max-buffer-size", opt)}
		}
		if err != nil {
			return usageError{fmt.Errorf("--log-opt %q: the value does not fit", opt)}
		}
	}
	return nil
}

// parseBytes reads a size in bytes, or with k, m, g or t in powers of 1024, as Docker
// does for memory.
func parseBytes(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	shift := 0
	for i, unit := range []string{"k", "m", "g", "t"} {
		if cut, ok := strings.CutSuffix(text, unit); ok {
			text, shift = cut, 10*(i+1)
			break
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f*math.Pow(2, float64(shift)) > math.MaxInt64/2 || text == "" || strings.ContainsAny(text, "einf_xp") {
		return 0, usageError{fmt.Errorf("size %q: want bytes, or a number with k, m, g or t", s)}
	}
	return int64(f * math.Pow(2, float64(shift))), nil
}

// parseSignal reads the number or the name of a signal, with or without SIG.
func parseSignal(s string) (unix.Signal, error) {
	const most = 64
	if n, err := strconv.Atoi(s); err == nil {
		if n > 0 && n <= most {
			return unix.Signal(n), nil
		}
		return 0, usageError{fmt.Errorf("signal %q: want a number from 1 to %d, or a name", s, most)}
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	// The C library keeps two of the real-time ones for itself.
	const rtmin, rtmax = 34, 64
	for _, r := range []struct {
		prefix string
		from   int
	}{{"SIGRTMIN", rtmin}, {"SIGRTMAX", rtmax}} {
		if rest, ok := strings.CutPrefix(name, r.prefix); ok {
			n, err := strconv.Atoi("0" + strings.TrimPrefix(strings.TrimPrefix(rest, "+"), "-"))
			if strings.HasPrefix(rest, "-") {
				n = -n
			}
			if n += r.from; err == nil && n >= rtmin && n <= rtmax {
				return unix.Signal(n), nil
			}
		}
	}
	return 0, usageError{fmt.Errorf("signal %q is unknown", s)}
}

// absolute makes a path of the host absolute.
func absolute(p string) (string, error) {
	if strings.HasPrefix(p, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		return filepath.Join(home, p[2:]), nil
	}
	return filepath.Abs(p)
}
