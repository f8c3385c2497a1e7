// hashicorp/go-plugin, as it is meant to be used: gRPC over a Unix socket. The program is
// host and plugin; it is the plugin when go-plugin has started it.
//
// The messages are written by hand: Debian's protoc-gen-go and golang/protobuf do not fit
// each other.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"sync"
	"time"

	"github.com/golang/protobuf/proto"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

const (
	calls  = 20000
	many   = 100000
	window = 64
	starts = 11
)

// Shot is the record that travels.
type Shot struct {
	Name   string  `protobuf:"bytes,1,opt,name=name,proto3"`
	Frame  int32   `protobuf:"varint,2,opt,name=frame,proto3"`
	Weight float64 `protobuf:"fixed64,3,opt,name=weight,proto3"`
}

func (shot *Shot) Reset()         { *shot = Shot{} }
func (shot *Shot) String() string { return proto.CompactTextString(shot) }
func (*Shot) ProtoMessage()       {}

type echo interface {
	next(*Shot) (*Shot, error)
}

type server struct{}

func (server) next(shot *Shot) (*Shot, error) {
	return &Shot{shot.Name, shot.Frame + 1, shot.Weight}, nil
}

func serve(of interface{}, _ context.Context, read func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
	shot := new(Shot)
	if err := read(shot); err != nil {
		return nil, err
	}
	return of.(echo).next(shot)
}

var service = grpc.ServiceDesc{
	ServiceName: "peer.Echo",
	HandlerType: (*echo)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Next", Handler: serve}},
}

type client struct{ connection *grpc.ClientConn }

func (client client) next(shot *Shot) (*Shot, error) {
	answer := new(Shot)
	return answer, client.connection.Invoke(context.Background(), "/peer.Echo/Next", shot, answer)
}

type both struct{ plugin.NetRPCUnsupportedPlugin }

func (both) GRPCServer(_ *plugin.GRPCBroker, registrar *grpc.Server) error {
	registrar.RegisterService(&service, server{})
	return nil
}

func (both) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, connection *grpc.ClientConn) (interface{}, error) {
	return client{connection}, nil
}

var handshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PEER_IS_PLUGIN", MagicCookieValue: "yes"}
var plugins = map[string]plugin.Plugin{"echo": both{}}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func start() (*plugin.Client, echo) {
	program, err := os.Executable()
	must(err)
	started := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugins,
		Cmd:              exec.Command(program),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
	})
	protocol, err := started.Client()
	must(err)
	found, err := protocol.Dispense("echo")
	must(err)
	return started, found.(echo)
}

func call(to echo, frame int32) {
	answer, err := to.next(&Shot{"frame-1", frame, 0.5})
	must(err)
	if answer.Frame != frame+1 {
		must(fmt.Errorf("frame %d came back as %d", frame, answer.Frame))
	}
}

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func main() {
	if os.Getenv(handshake.MagicCookieKey) != "" {
		plugin.Serve(&plugin.ServeConfig{HandshakeConfig: handshake, Plugins: plugins, GRPCServer: plugin.DefaultGRPCServer})
		return
	}
	var first, each []float64
	for n := 0; n < starts; n++ {
		began := time.Now()
		started, to := start()
		call(to, 1)
		first = append(first, time.Since(began).Seconds()*1e3)
		started.Kill()
	}
	started, to := start()
	defer started.Kill()
	for n := 0; n < calls; n++ {
		began := time.Now()
		call(to, int32(n))
		each = append(each, time.Since(began).Seconds()*1e6)
	}
	began := time.Now()
	var done sync.WaitGroup
	for n := 0; n < window; n++ {
		done.Add(1)
		go func() {
			defer done.Done()
			for n := 0; n < many/window; n++ {
				call(to, int32(n))
			}
		}()
	}
	done.Wait()
	rate := float64(many/window*window) / time.Since(began).Seconds()
	fmt.Printf("{\"call_us\": %.3f, \"calls_per_s\": %.0f, \"first_call_ms\": %.3f}\n", median(each), rate, median(first))
}
