%% The echo as Erlang's `{packet, 4}` sees it: PORT SIZE..

main([Port | Texts]) ->
    Sizes = [list_to_integer(Text) || Text <- Texts],
    Payloads = [rand:bytes(Size) || Size <- Sizes],
    Options = [binary, {packet, 4}, {active, false}],
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, list_to_integer(Port), Options),
    lists:foreach(fun(Payload) -> send(Socket, Payload), receive_equal(Socket, Payload) end, Payloads),

    Twice = Payloads ++ Payloads,
    spawn_link(fun() -> lists:foreach(fun(Payload) -> send(Socket, Payload) end, Twice) end),
    lists:foreach(fun(Payload) -> receive_equal(Socket, Payload) end, Twice),

    ok = gen_tcp:shutdown(Socket, write),
    {error, closed} = gen_tcp:recv(Socket, 0, 10000),
    io:format("{packet, 4}, Erlang/OTP ~s: ~b frames of ~b to ~b bytes are equal~n",
              [erlang:system_info(otp_release), 3 * length(Sizes), hd(Sizes), lists:max(Sizes)]).

send(Socket, Payload) ->
    ok = gen_tcp:send(Socket, Payload).

receive_equal(Socket, Payload) ->
    {ok, Payload} = gen_tcp:recv(Socket, 0, 10000).
