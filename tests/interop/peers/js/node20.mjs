// js-libp2p 3.3 is written for Node >= 22; on Node 20 this one function is missing.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}
