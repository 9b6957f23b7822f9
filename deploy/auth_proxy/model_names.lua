-- Let calls of the two endpoints through, and of no other model: read `model_name` of each message of KServe's gRPC
-- protocol (inference.ModelInferRequest, field 1). Runs in Envoy's Lua filter (LuaJIT), before the router.
--
-- A call of ModelInfer is held until it is whole and is then passed on or answered with PERMISSION_DENIED. In a stream
-- each message is held until it is whole; one for another model is replaced by a message for a model whose name is the
-- reason, which Triton answers with an error inside the stream, so that the stream's other requests go on.

local bit = require("bit")

local UNARY = "/inference.GRPCInferenceService/ModelInfer"
local STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
local SERVED = { [UNARY] = "text_to_video", [STREAM] = "text_to_video_stream" }
local MODEL_NAME = 1 -- number of the field
local MAX_MESSAGE_BYTES = 64 * 1024 * 1024
local PREFIX_BYTES = 5 -- of a gRPC message: one byte of flags, four of length
local LENGTH_DELIMITED = 2 -- wire type
local FIXED_BYTES = { [1] = 8, [5] = 4 } -- by wire type

-- Read the varint at `at`: its value and the place behind it, or nil where there is none that protobuf would take.
local function read_varint(bytes, at)
  local value, factor = 0, 1
  for place = at, math.min(at + 9, #bytes) do
    local byte = bytes:byte(place)
    value = value + bit.band(byte, 0x7f) * factor
    if byte < 0x80 then
      return value, place + 1
    end
    factor = factor * 128
  end
  return nil
end

-- Read the field at `at`: its number, the place of its content, the place behind it; nil where the bytes are no field.
local function read_field(bytes, at)
  local tag, content = read_varint(bytes, at)
  if not tag then
    return nil
  end
  local number, wire_type = math.floor(tag / 8), tag % 8
  local after
  if wire_type == LENGTH_DELIMITED then
    local length
    length, content = read_varint(bytes, content)
    after = length and content + length
  elseif wire_type == 0 then
    local _
    _, after = read_varint(bytes, content)
  elseif FIXED_BYTES[wire_type] then
    after = content + FIXED_BYTES[wire_type]
  end
  if not after or after > #bytes + 1 or (number == MODEL_NAME and wire_type ~= LENGTH_DELIMITED) then
    return nil
  end
  return number, content, after
end

-- Say why `message` may not pass, or nil. Each `model_name` of several must be the served one: the last counts.
local function complaint(message, served)
  local at, named = 1, false
  while at <= #message do
    local number, content, after = read_field(message, at)
    if not number then
      return "the message is no ModelInferRequest"
    end
    if number == MODEL_NAME then
      if message:sub(content, after - 1) ~= served then
        return "only the model " .. served .. " is served here by this call"
      end
      named = true
    end
    at = after
  end
  return not named and "the message names no model" or nil
end

-- Read the prefix of a gRPC message: whether it is compressed, and its length in bytes.
local function read_prefix(bytes)
  local flags, a, b, c, d = bytes:byte(1, PREFIX_BYTES)
  return flags ~= 0, ((a * 256 + b) * 256 + c) * 256 + d
end

local function complaint_of_prefix(compressed, length)
  if compressed then
    return "compressed messages are not read here: send them plain"
  elseif length > MAX_MESSAGE_BYTES then
    return "a message of " .. length .. " bytes is too long: up to " .. MAX_MESSAGE_BYTES .. " are taken"
  end
end

local function write_prefix(length)
  local function byte(power)
    return math.floor(length / 256 ^ power) % 256
  end
  return string.char(0, byte(3), byte(2), byte(1), byte(0))
end

-- Make a message that Triton refuses with the reason in its words. A name under 128 bytes has a length of one byte.
local function refusal(reason)
  local name = ("refused by the proxy (" .. reason):sub(1, 120) .. ")"
  local message = string.char(MODEL_NAME * 8 + LENGTH_DELIMITED, #name) .. name
  return write_prefix(#message) .. message
end

local function check_call(handle, served)
  local body = handle:body()
  local bytes = body and body:getBytes(0, body:length()) or ""
  local reason
  if #bytes < PREFIX_BYTES then
    reason = "the call has no message"
  else
    local compressed, length = read_prefix(bytes)
    reason = complaint_of_prefix(compressed, length)
    if not reason and length ~= #bytes - PREFIX_BYTES then
      reason = "the call has not one message"
    end
    reason = reason or complaint(bytes:sub(PREFIX_BYTES + 1), served)
  end
  if reason then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = "7",
      ["grpc-message"] = "refused by the proxy: " .. reason,
    })
  end
end

-- A stream's bytes that have come and were not passed on yet. They are joined once the bytes that are waited for are
-- there, since joining at each chunk would copy a long message thousands of times.
local function new_waiting()
  return { chunks = {}, size = 0, wanted = PREFIX_BYTES, to_skip = 0 }
end

local function join_chunks(waiting)
  local bytes = table.concat(waiting.chunks)
  waiting.chunks, waiting.size = { bytes }, #bytes
  return bytes
end

local function drop_bytes(waiting, count)
  if count == 0 then
    return 0
  end
  local bytes = join_chunks(waiting)
  local dropped = math.min(count, #bytes)
  waiting.chunks, waiting.size = { bytes:sub(dropped + 1) }, #bytes - dropped
  return count - dropped
end

-- Take the next whole message off `waiting`, or what stands for it; nil where more bytes must come first.
local function take_message(waiting, served)
  waiting.to_skip = drop_bytes(waiting, waiting.to_skip)
  if waiting.to_skip > 0 or waiting.size < waiting.wanted then
    return nil
  end
  local bytes = join_chunks(waiting)
  local compressed, length = read_prefix(bytes)
  local reason = complaint_of_prefix(compressed, length)
  if not reason and #bytes < PREFIX_BYTES + length then
    waiting.wanted = PREFIX_BYTES + length
    return nil
  end
  reason = reason or complaint(bytes:sub(PREFIX_BYTES + 1, PREFIX_BYTES + length), served)
  waiting.wanted = PREFIX_BYTES
  waiting.to_skip = drop_bytes(waiting, PREFIX_BYTES + length)
  return reason and refusal(reason) or bytes:sub(1, PREFIX_BYTES + length)
end

-- Pass the whole messages of a stream on, those for other models replaced.
local function check_stream(handle, served)
  local waiting = new_waiting()
  for chunk in handle:bodyChunks() do
    waiting.chunks[#waiting.chunks + 1] = chunk:getBytes(0, chunk:length())
    waiting.size = waiting.size + chunk:length()
    local passed = {}
    repeat
      local message = take_message(waiting, served)
      passed[#passed + 1] = message
    until not message
    chunk:setBytes(table.concat(passed))
  end
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path"):match("^[^?]*") -- a route takes the path with any query
  if path == UNARY then
    check_call(handle, SERVED[path])
  elseif path == STREAM then
    check_stream(handle, SERVED[path])
  end
end
