package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/logs"
	"github.com/layerfs/layerfs/runtime/network"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// containerInspect is what inspect prints of a container: names and shape are Docker's,
// so that templates written for that work.
type containerInspect struct {
	ID              string           `json:"Id"`
	Name            string           `json:"Name"` // with a leading "/"
	Created         time.Time        `json:"Created"`
	Path            string           `json:"Path"`
	Args            []string         `json:"Args"`
	Image           string           `json:"Image"` // id
	RestartCount    int              `json:"RestartCount"`
	Driver          string           `json:"Driver"`
	Snapshot        string           `json:"Snapshot"`
	LogPath         string           `json:"LogPath"`
	State           inspectState     `json:"State"`
	Config          inspectConfig    `json:"Config"`
	HostConfig      inspectHost      `json:"HostConfig"`
	Mounts          []inspectMount   `json:"Mounts"`
	NetworkSettings inspectNetworks  `json:"NetworkSettings"`
	OCI             *json.RawMessage `json:"OCI,omitempty"` // the specification that it was last started with
}

type inspectState struct {
	Status     string         `json:"Status"`
	Running    bool           `json:"Running"`
	Paused     bool           `json:"Paused"`
	Restarting bool           `json:"Restarting"`
	OOMKilled  bool           `json:"OOMKilled"`
	Dead       bool           `json:"Dead"`
	Pid        int            `json:"Pid"`
	MonitorPid int            `json:"MonitorPid"`
	ExitCode   int            `json:"ExitCode"`
	Error      string         `json:"Error"`
	StartedAt  time.Time      `json:"StartedAt"`
	FinishedAt time.Time      `json:"FinishedAt"`
	Health     *inspectHealth `json:"Health,omitempty"`
}

type inspectHealth struct {
	Status        string         `json:"Status"`
	FailingStreak int            `json:"FailingStreak"`
	Log           []inspectCheck `json:"Log"`
}

type inspectCheck struct {
	Start    time.Time `json:"Start"`
	End      time.Time `json:"End"`
	ExitCode int       `json:"ExitCode"`
	Output   string    `json:"Output"`
}

type inspectConfig struct {
	Hostname     string              `json:"Hostname"`
	User         string              `json:"User"`
	Tty          bool                `json:"Tty"`
	OpenStdin    bool                `json:"OpenStdin"`
	StdinOnce    bool                `json:"StdinOnce"`
	Env          []string            `json:"Env"`
	Cmd          []string            `json:"Cmd"`
	Entrypoint   []string            `json:"Entrypoint"`
	Image        string              `json:"Image"` // as it was named
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	StopTimeout  *int                `json:"StopTimeout,omitempty"`
}

type inspectHost struct {
	AutoRemove     bool                  `json:"AutoRemove"`
	Init           bool                  `json:"Init"`
	Runtime        string                `json:"Runtime"` // path of the OCI runtime; "" is the built-in launcher
	ReadonlyRootfs bool                  `json:"ReadonlyRootfs"`
	Privileged     bool                  `json:"Privileged"`
	RestartPolicy  inspectRestart        `json:"RestartPolicy"`
	LogConfig      container.LogConfig   `json:"LogConfig"`
	NetworkMode    string                `json:"NetworkMode"`
	CapAdd         []string              `json:"CapAdd"`
	CapDrop        []string              `json:"CapDrop"`
	PidMode        string                `json:"PidMode"`
	IpcMode        string                `json:"IpcMode"`
	UTSMode        string                `json:"UTSMode"`
	ShmSize        int64                 `json:"ShmSize"`
	Resources      *specs.LinuxResources `json:"Resources,omitempty"`
}

type inspectRestart struct {
	Name              string `json:"Name"`
	MaximumRetryCount int    `json:"MaximumRetryCount"`
}

type inspectMount struct {
	Type        string `json:"Type"`
	Name        string `json:"Name,omitempty"`
	Source      string `json:"Source"`
	Destination string `json:"Destination"`
	RW          bool   `json:"RW"`
}

type inspectNetworks struct {
	IPAddress  string                    `json:"IPAddress"` // of the first network
	Gateway    string                    `json:"Gateway"`
	MacAddress string                    `json:"MacAddress"`
	Ports      map[string][]inspectPort  `json:"Ports"`
	Networks   map[string]inspectNetwork `json:"Networks"`
}

type inspectPort struct {
	HostIP   string `json:"HostIp"`
	HostPort string `json:"HostPort"`
}

type inspectNetwork struct {
	IPAddress   string   `json:"IPAddress"`
	IPPrefixLen int      `json:"IPPrefixLen"`
	Gateway     string   `json:"Gateway"`
	MacAddress  string   `json:"MacAddress"`
	Names       []string `json:"DNSNames"`
}

func (a *app) inspectContainer(s *container.Store, c *container.Container) (*containerInspect, error) {
	st := &c.State
	args := slices.Concat(c.Entrypoint, c.Command)
	out := &containerInspect{ID: string(c.ID), Name: "/" + c.Name, Created: c.Created, Image: c.ImageID, RestartCount: st.Restarts,
		Driver: c.Driver, Snapshot: c.Snapshot, Args: []string{}, Mounts: []inspectMount{}}
	if len(args) > 0 {
		out.Path, out.Args = args[0], args[1:]
	}
	if c.Log.Driver == container.LogJSON {
		out.LogPath = path.Join(s.Dir(c.ID), logs.FileName)
	}
	out.State = inspectState{Status: string(st.Status), Running: st.Status == container.Running || st.Status == container.Paused,
		Paused: st.Status == container.Paused, Restarting: st.Status == container.Restarting, OOMKilled: st.OOMKilled, Dead: st.Status == container.Dead,
		Pid: st.Process.Pid, MonitorPid: st.Monitor.Pid, ExitCode: st.ExitCode, Error: st.Error, StartedAt: st.Started, FinishedAt: st.Finished}
	if h := st.Health; h != nil {
		health := &inspectHealth{Status: string(h.Status), FailingStreak: h.Failures}
		for _, check := range h.Log {
			health.Log = append(health.Log, inspectCheck(check))
		}
		out.State.Health = health
	}
	hostname := c.Hostname
	if hostname == "" {
		hostname = c.ID.Short()
	}
	out.Config = inspectConfig{Hostname: hostname, User: c.User, Tty: c.Terminal, OpenStdin: c.Stdin, StdinOnce: c.StdinOnce, Env: c.Env,
		Cmd: c.Command, Entrypoint: c.Entrypoint, Image: c.Image, WorkingDir: c.Cwd, Labels: c.Labels, StopSignal: c.StopSignal, StopTimeout: c.StopTimeout}
	for _, p := range c.Exposed {
		if out.Config.ExposedPorts == nil {
			out.Config.ExposedPorts = map[string]struct{}{}
		}
		out.Config.ExposedPorts[p] = struct{}{}
	}
	out.HostConfig = inspectHost{AutoRemove: c.Remove, Init: c.Init, Runtime: c.Runtime, Privileged: c.Privileged, ReadonlyRootfs: c.ReadOnly,
		RestartPolicy: inspectRestart{string(c.Restart.Mode), c.Restart.Most}, LogConfig: c.Log,
		NetworkMode: strings.Join(c.Networks, ","), CapAdd: c.CapAdd, CapDrop: c.CapDrop, PidMode: c.PID, IpcMode: cmp.Or(c.IPC, "private"), UTSMode: c.UTS, ShmSize: c.ShmSize, Resources: c.Resources}
	for _, m := range c.Mounts {
		im := inspectMount{Type: string(m.Kind), Source: m.Source, Destination: m.Target, RW: !m.ReadOnly}
		if m.Kind == container.MountVolume {
			im.Name, im.Source = m.Source, path.Join(a.disk.Root(), "volumes", m.Source, "_data")
		}
		out.Mounts = append(out.Mounts, im)
	}
	if err := fillNetworks(out, st); err != nil {
		return nil, fmt.Errorf("network of container %s: %w", c.Name, err)
	}
	if spec, err := s.ReadSpec(c.ID); err == nil && json.Valid(spec) {
		raw := json.RawMessage(spec)
		out.OCI = &raw
	}
	return out, nil
}

// fillNetworks fills in what the container was given.
func fillNetworks(out *containerInspect, st *container.State) error {
	n := &out.NetworkSettings
	n.Ports, n.Networks = map[string][]inspectPort{}, map[string]inspectNetwork{}
	if !st.Active() || len(st.Network) == 0 {
		return nil
	}
	var rec network.Record
	if err := json.Unmarshal(st.Network, &rec); err != nil {
		return err
	}
	for i, m := range rec.Networks {
		one := inspectNetwork{IPAddress: m.IPv4.Addr().String(), IPPrefixLen: m.IPv4.Bits(), MacAddress: m.MAC, Names: m.Names}
		if m.Gateway4.IsValid() {
			one.Gateway = m.Gateway4.String()
		}
		if i == 0 {
			n.IPAddress, n.Gateway, n.MacAddress = one.IPAddress, one.Gateway, one.MacAddress
		}
		n.Networks[m.Network] = one
	}
	for _, p := range rec.Ports {
		key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		ip := "0.0.0.0"
		if p.HostIP.IsValid() {
			ip = p.HostIP.String()
		}
		n.Ports[key] = append(n.Ports[key], inspectPort{ip, itoa(int(p.HostPort))})
	}
	return nil
}
