//! What the `virt` crate does not wrap: events of domains, that a connection is lost, and layers of disks that are merged. The one place
//! with unsafe code.
//!
//! libvirt takes a C function and a pointer that it hands to that function at each call. The pointer is a boxed closure here.
//! Why this is sound:
//! - **It lives long enough.** The box is given away with `Box::into_raw` and freed by [`free`] alone, which libvirt calls once
//!   after the last call of the function, when the callback is taken away ([`forget`]; it holds the connection open until then).
//!   Where the registration is refused libvirt does not call it, and the box is taken back here.
//! - **It is what it is taken for.** Each function casts the pointer to the type that the one place that registers it boxed.
//! - **Threads.** The functions run on the thread of the event loop, and are registered from another: the closures are `Send`, and
//!   are only ever borrowed shared, and `Sync`.
//! - **Panics** do not cross into C: they are caught.
//! - The cast of the lifecycle callback to the generic type is how libvirt's interface is made: it is called with the arguments of
//!   its event id, which is given beside it (virConnectDomainEventRegisterAny in libvirt-domain.h).
//! - What libvirt hands over (connection, domain) is borrowed for the call, and valid during it: the uuid is copied out of the
//!   domain before it returns.

#![allow(unsafe_code)]

use stampede_libvirt_protocol::Kind;
use std::ffi::{CString, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

type OnDomain = Box<dyn Fn(String, Kind) + Send + Sync>;
type OnClose = Box<dyn Fn() + Send + Sync>;

/// A registration of domains' events with its connection.
#[derive(Debug)]
pub struct Registration(c_int);

/// Takes both callbacks away, so that the connection can close. One that is lost already only tells of it.
pub fn forget(connect: &Connect, registration: &Registration) {
    // SAFETY: the connection is open as long as `connect` is borrowed, the number is of a registration with it.
    let gone = unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), registration.0) };
    // SAFETY: as above; that there is no such callback is an error like any other.
    let closed = unsafe { sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(lost)) };
    tracing::debug!(gone, closed, "callbacks are taken away");
}

/// Has `happened` called with the uuid of each domain to which something happens, on the event loop's thread.
pub fn on_domain_events(connect: &Connect, happened: OnDomain) -> Result<Registration, Error> {
    let opaque = Box::into_raw(Box::new(happened));
    // SAFETY: the type is what libvirt casts it back to by the event's id; see the module's text.
    let callback = unsafe {
        std::mem::transmute::<
            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int,
            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void),
        >(lifecycle)
    };
    // SAFETY: the connection is open as long as `connect` is borrowed; no domain means all; `opaque` is freed by `free`.
    let registered = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            c_int::try_from(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE).unwrap_or_default(),
            Some(callback),
            opaque.cast(),
            Some(free::<OnDomain>),
        )
    };
    if registered < 0 {
        // SAFETY: refused, so libvirt has forgotten it, and nobody else has it.
        drop(unsafe { Box::from_raw(opaque) });
        return Err(Error::last_error());
    }
    Ok(Registration(registered))
}

/// Has `closed` called when the connection is lost, on the event loop's thread.
pub fn on_close(connect: &Connect, closed: OnClose) -> Result<(), Error> {
    let opaque = Box::into_raw(Box::new(closed));
    // SAFETY: as above.
    let registered = unsafe {
        sys::virConnectRegisterCloseCallback(connect.as_ptr(), Some(lost), opaque.cast(), Some(free::<OnClose>))
    };
    if registered < 0 {
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(opaque) });
        return Err(Error::last_error());
    }
    Ok(())
}

/// Text for C; none of it has a byte 0 in it, which a question is refused for.
fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Begins to bring what is in the file `over` of a disk into `under`, on which it lies.
pub fn commit(domain: &Domain, target: &str, over: &str, under: &str) -> Result<(), Error> {
    let (target, over, under) = (text(target), text(over), text(under));
    // SAFETY: the domain is valid as long as it is borrowed, and so are the texts, which libvirt copies.
    let begun =
        unsafe { sys::virDomainBlockCommit(domain.as_ptr(), target.as_ptr(), under.as_ptr(), over.as_ptr(), 0, 0) };
    if begun < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Whether something is under way with a disk.
pub fn has_job(domain: &Domain, target: &str) -> Result<bool, Error> {
    let target = text(target);
    let mut info = std::mem::MaybeUninit::<sys::virDomainBlockJobInfo>::zeroed();
    // SAFETY: as above; `info` is as large as libvirt writes, and nothing of it is read.
    let found = unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), target.as_ptr(), info.as_mut_ptr(), 0) };
    match found {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(Error::last_error()),
    }
}

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut text = [0_u8; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: `domain` is valid for the call, and the buffer as long as libvirt writes.
    let named = unsafe { sys::virDomainGetUUIDString(domain, text.as_mut_ptr().cast()) } == 0;
    let uuid = text.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
    if named {
        // SAFETY: registered with this type alone, and alive until `free`.
        let happened = unsafe { &*opaque.cast::<OnDomain>() };
        let _ = catch_unwind(AssertUnwindSafe(|| happened(uuid.into_owned(), kind(event))));
    }
    0
}

unsafe extern "C" fn lost(_: sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: registered with this type alone, and alive until `free`.
    let closed = unsafe { &*opaque.cast::<OnClose>() };
    let _ = catch_unwind(AssertUnwindSafe(closed));
}

unsafe extern "C" fn free<T>(opaque: *mut c_void) {
    // SAFETY: from `Box::into_raw` of this type, and called once.
    let boxed = unsafe { Box::from_raw(opaque.cast::<T>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(boxed)));
}

fn kind(event: c_int) -> Kind {
    match sys::virDomainEventType::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Kind::Defined,
        Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Kind::Undefined,
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Kind::Started,
        Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => Kind::Suspended,
        Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => Kind::Resumed,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Kind::Stopped,
        Ok(sys::VIR_DOMAIN_EVENT_SHUTDOWN) => Kind::Shutdown,
        Ok(sys::VIR_DOMAIN_EVENT_CRASHED) => Kind::Crashed,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use virt::domain::Domain;

    /// libvirt's own driver for tests, which needs no daemon.
    #[test]
    fn what_happens_is_heard_and_its_closure_is_freed() {
        virt::event::event_register_default_impl().unwrap();
        std::thread::spawn(|| while virt::event::event_run_default_impl().is_ok() {});
        let mut connect = Connect::open(Some("test:///default")).unwrap();
        let (heard, hear) = mpsc::channel();
        let alive = std::sync::Arc::new(());
        let held = alive.clone();
        let heard = Box::new(move |uuid, kind| {
            let _ = (heard.send((uuid, kind)), &held);
        });
        let registration = on_domain_events(&connect, heard).unwrap();
        let domain = Domain::lookup_by_name(&connect, "test").unwrap();
        domain.destroy().unwrap();
        let (uuid, kind) = hear.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((uuid, kind), (domain.get_uuid_string().unwrap(), Kind::Stopped));
        drop(domain);
        forget(&connect, &registration);
        assert_eq!(connect.close().unwrap(), 0, "nothing holds it open");
        let freed = (0..100).any(|_| {
            let freed = std::sync::Arc::strong_count(&alive) == 1;
            if !freed {
                let _ = hear.recv_timeout(Duration::from_millis(50));
            }
            freed
        });
        assert!(freed, "the closure goes with the connection");
    }
}
